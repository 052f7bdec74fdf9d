"""The encoder: a timm model behind one interface for all families."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from umim.errors import ConfigError
from umim.models import compact

MODULES = ("vision_transformer", "deit", "swin_transformer", "swin_transformer_v2", compact.__name__.rpartition(".")[2])
"""timm modules whose models are allowed: Vision Transformers, DeiT, Swin and Swin V2, and this project's."""
_TYPES = (VisionTransformer, SwinTransformer, SwinTransformerV2)


class Encoder(nn.Module):
    """A timm model without its classifier. ``net`` is exactly timm's model, so that its state_dict is timm's."""

    net: Any  # timm's families share no type that names what is used here

    def __init__(self, net: nn.Module, architecture: str, image_size: int) -> None:
        super().__init__()
        self.net = net
        """The timm model."""
        self.architecture = architecture
        self.image_size = image_size
        self.width: int = self.net.num_features
        """Channels of the feature map."""
        self.stride: int = self.net.feature_info[-1]["reduction"]
        """Pixels of the image per position of the feature map."""
        self.patch: int = self.net.patch_embed.patch_size[0]
        """Side of an input patch in pixels: the unit that ViT embeds."""

    @property
    def is_vit(self) -> bool:
        """Whether it is a plain Vision Transformer, which can leave out patches (MAE)."""
        return isinstance(self.net, VisionTransformer)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the final, normalised feature map (B, D, H, W). Prefix tokens (class, register) are dropped."""
        features = self.net.forward_features(images_BCHW)
        if not self.is_vit:
            return self.final_norm(features).movedim(3, 1)
        tokens_BLD = self.final_norm(features[:, self.net.num_prefix_tokens :])
        side = self.image_size // self.stride
        return tokens_BLD.transpose(1, 2).reshape(len(tokens_BLD), self.width, side, side)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm that timm places behind the pooling in some models (fc_norm); else return the input."""
        norm: nn.Module = getattr(self.net, "fc_norm", nn.Identity())
        normed: Tensor = norm(tokens)
        return normed


def pooled(map_BDHW: Tensor) -> Tensor:
    """Return the image's feature vector (B, D): the mean over positions.

    Not the class token: masked image modelling trains the positions only. Evaluation must use this too.
    """
    return map_BDHW.mean(dim=(2, 3))


def create_encoder(architecture: str, image_size: int, seed: int) -> Encoder:
    """Return an encoder in float32 with initial weights that depend on the seed alone.

    Its ``net.state_dict()`` has the names and shapes of ``timm.create_model(architecture, img_size=image_size,
    num_classes=0)``. The global random state is left as it was. Raises ConfigError naming spec.model.architecture
    or spec.model.imageSize.
    """
    check_architecture(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = timm.create_model(architecture, img_size=image_size, num_classes=0, in_chans=3, pretrained=False)
        except (AssertionError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"spec.model.imageSize {image_size} does not fit spec.model.architecture {architecture}: "
                f"{error or type(error).__name__}"
            ) from error
    if not isinstance(net, _TYPES):
        raise ConfigError(f"spec.model.architecture {architecture} is a {type(net).__name__}; {_allowed()}")
    encoder = Encoder(net, architecture, image_size)
    if image_size % encoder.stride:
        raise ConfigError(
            f"spec.model.imageSize {image_size} does not fit spec.model.architecture {architecture}: allowed are "
            f"multiples of {encoder.stride}, its patch size over all stages"
        )
    return encoder


def check_architecture(architecture: str) -> None:
    """Raise ConfigError with similar names unless timm knows the architecture and its family is allowed."""
    allowed = _architectures()
    if architecture in allowed:
        return
    similar = difflib.get_close_matches(architecture, sorted(allowed), n=3, cutoff=0.5)
    hint = f"; similar names: {', '.join(similar)}" if similar else ""
    raise ConfigError(f"spec.model.architecture {architecture!r} is unknown; {_allowed()}{hint}")


@cache
def _architectures() -> frozenset[str]:
    """Return the names, plain and with the tags of pretrained weights (which are not loaded)."""
    names = {name for module in MODULES for name in timm.list_models(module=module)}
    return frozenset(names | {tagged for tagged in timm.list_pretrained() if tagged.split(".", maxsplit=1)[0] in names})


def _allowed() -> str:
    return (
        "allowed are timm names of Vision Transformers (vit_*, deit_*, deit3_*), Swin (swin_*) and Swin V2 (swinv2_*)"
    )
