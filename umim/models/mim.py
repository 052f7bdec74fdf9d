"""Masked image modelling: MAE for Vision Transformers, SimMIM for the other families.

The decoder never leaves a hospital. The server's is published as a part of the model, beside the encoder.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from umim.models.encoder import Encoder

EPSILON = 1e-6
DECODER_DEPTH = 2
SMALLEST_DECODER = 64
"""Width. Half the encoder's, as in MAE, but not less."""


class MaskedAutoencoder(nn.Module):
    """MAE (arXiv 2111.06377): the encoder sees the visible patches only, a light decoder predicts the hidden ones.

    The loss is the mean squared error on hidden patches, each normalised by its own mean and standard deviation.
    """

    def __init__(self, encoder: Encoder, mask_ratio: float) -> None:
        super().__init__()
        decoder_width = max(SMALLEST_DECODER, encoder.width // 2)
        self.patch = encoder.patch
        self.length = (encoder.image_size // encoder.patch) ** 2
        self.visible = max(1, min(self.length - 1, round(self.length * (1 - mask_ratio))))
        self.embed = nn.Linear(encoder.width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.position = nn.Parameter(torch.zeros(1, self.length, decoder_width))
        self.blocks = nn.Sequential(*(Block(decoder_width, num_heads=4) for _ in range(DECODER_DEPTH)))
        self.norm = nn.LayerNorm(decoder_width)
        self.predict = nn.Linear(decoder_width, self.patch**2 * 3)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (B, L) random numbers, on the generator's device: the patches with the smallest are visible."""
        return torch.rand((count, self.length), generator=generator, device=generator.device)

    def loss(self, encoder: Encoder, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss over the batch. Masks come from ``generator``, on the images' device."""
        return self.masked_loss(encoder, images_BCHW, self.draw(len(images_BCHW), generator))

    def masked_loss(self, encoder: Encoder, images_BCHW: Tensor, noise_BL: Tensor) -> Tensor:
        """Return the mean loss over the batch, with masks from ``draw``."""
        order_BL = noise_BL.argsort(dim=1)
        visible_BV, hidden_BM = order_BL[:, : self.visible], order_BL[:, self.visible :]
        tokens_BVD = self._encode(encoder, images_BCHW, visible_BV)
        predicted_BMP = self._decode(tokens_BVD, visible_BV, hidden_BM)
        patches_BLP = patchify(images_BCHW, self.patch)
        wanted_BMP = _normalised(patches_BLP.gather(1, _expand(hidden_BM, patches_BLP.shape[2])))
        return (predicted_BMP.float() - wanted_BMP).square().mean()

    def _encode(self, encoder: Encoder, images_BCHW: Tensor, visible_BV: Tensor) -> Tensor:
        net = encoder.net
        tokens: Tensor = net._pos_embed(
            net.patch_embed(images_BCHW)
        )  # timm has no public way to embed without encoding
        prefix = net.num_prefix_tokens
        patches = tokens[:, prefix:]
        kept = patches.gather(1, _expand(visible_BV, patches.shape[2]))
        encoded: Tensor = net.norm(net.blocks(net.norm_pre(torch.cat([tokens[:, :prefix], kept], dim=1))))
        return encoder.final_norm(encoded[:, prefix:])

    def _decode(self, tokens_BVD: Tensor, visible_BV: Tensor, hidden_BM: Tensor) -> Tensor:
        count, width = len(tokens_BVD), self.position.shape[2]
        position_BLE = self.position.expand(count, -1, -1)
        visible = self.embed(tokens_BVD) + position_BLE.gather(1, _expand(visible_BV, width))
        hidden = self.mask_token + position_BLE.gather(1, _expand(hidden_BM, width))
        decoded = self.norm(self.blocks(torch.cat([visible, hidden.to(visible.dtype)], dim=1)))
        predicted: Tensor = self.predict(decoded[:, self.visible :])
        return predicted


class SimMim(nn.Module):
    """SimMIM (arXiv 2111.09886): hidden areas are filled with a learned colour, one linear layer predicts pixels.

    Works with every encoder that gives a feature map, such as Swin. An area is one position of the feature map
    (SimMIM's 32 pixels for Swin). The loss is as for ``MaskedAutoencoder``, to keep the weights comparable.
    """

    def __init__(self, encoder: Encoder, mask_ratio: float) -> None:
        super().__init__()
        self.stride = encoder.stride
        self.side = encoder.image_size // encoder.stride
        length = self.side**2
        self.hidden = max(1, min(length - 1, round(length * mask_ratio))) if length > 1 else 1
        self.fill = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.predict = nn.Conv2d(encoder.width, self.stride**2 * 3, 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (B, L) random numbers, on the generator's device: the areas with the smallest are hidden."""
        return torch.rand((count, self.side**2), generator=generator, device=generator.device)

    def loss(self, encoder: Encoder, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss over the batch. Masks come from ``generator``, on the images' device."""
        return self.masked_loss(encoder, images_BCHW, self.draw(len(images_BCHW), generator))

    def masked_loss(self, encoder: Encoder, images_BCHW: Tensor, noise_BL: Tensor) -> Tensor:
        """Return the mean loss over the batch, with masks from ``draw``."""
        count = len(images_BCHW)
        rank_BL = noise_BL.argsort(dim=1).argsort(dim=1)
        mask_BL = (rank_BL < self.hidden).to(noise_BL.dtype)
        mask_B1HW = mask_BL.view(count, 1, self.side, self.side)
        for dim in (2, 3):
            mask_B1HW = mask_B1HW.repeat_interleave(self.stride, dim=dim)
        filled = images_BCHW * (1 - mask_B1HW) + self.fill * mask_B1HW
        predicted_BLP: Tensor = self.predict(encoder(filled)).flatten(2).transpose(1, 2)
        wanted_BLP = _normalised(patchify(images_BCHW, self.stride))
        losses_BL = (predicted_BLP.float() - wanted_BLP).square().mean(dim=2)
        return (losses_BL * mask_BL).sum() / mask_BL.sum()


MimModel = MaskedAutoencoder | SimMim


def create_mim(encoder: Encoder, mask_ratio: float, seed: int) -> MimModel:
    """Return the MIM part for an encoder's family with weights from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if encoder.is_vit:
            return MaskedAutoencoder(encoder, mask_ratio)
        return SimMim(encoder, mask_ratio)


def patchify(images_BCHW: Tensor, patch: int) -> Tensor:
    """Return the patches in row order as (B, L, patch * patch * C)."""
    count, channels, height, width = images_BCHW.shape
    rows, columns = height // patch, width // patch
    split = images_BCHW.reshape(count, channels, rows, patch, columns, patch)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, patch * patch * channels)


def _normalised(patches_BLP: Tensor) -> Tensor:
    """Subtract each patch's mean and divide by its standard deviation (MAE, section 3)."""
    mean = patches_BLP.mean(dim=2, keepdim=True)
    variance = patches_BLP.var(dim=2, keepdim=True)
    return (patches_BLP - mean) / (variance + EPSILON).sqrt()


def _expand(index_BK: Tensor, width: int) -> Tensor:
    return index_BK.unsqueeze(2).expand(-1, -1, width)
