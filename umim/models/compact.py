"""Vision Transformers for small images and machines without a GPU, registered with timm under names of this project.

``timm.create_model`` knows them once this module is imported. Without it, the same network is
``timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=96, depth=4, num_heads=3,
num_classes=0)`` for vit_pico_patch8_64.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

SIZES = {"vit_pico_patch8_64": (96, 4, 3), "vit_nano_patch8_64": (192, 6, 3)}
"""Width, depth and heads by name. 0.5 and 2.7 million parameters."""


def _create(name: str, pretrained: bool, **arguments: Any) -> VisionTransformer:
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights")
    width, depth, heads = SIZES[name]
    for ignored in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(ignored, None)
    return VisionTransformer(
        **{"img_size": 64, **arguments}, patch_size=8, embed_dim=width, depth=depth, num_heads=heads
    )


@register_model
def vit_pico_patch8_64(pretrained: bool = False, **arguments: Any) -> VisionTransformer:
    """Width 96, depth 4. ``pretrained`` is timm's convention; there are no pretrained weights."""
    return _create("vit_pico_patch8_64", pretrained, **arguments)


@register_model
def vit_nano_patch8_64(pretrained: bool = False, **arguments: Any) -> VisionTransformer:
    """Width 192, depth 6. ``pretrained`` is timm's convention; there are no pretrained weights."""
    return _create("vit_nano_patch8_64", pretrained, **arguments)
