"""Batched image transforms on tensors, on the CPU or a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MEAN = 0.5
STD = 0.5
"""Every encoder of this project sees (x - 0.5) / 0.5 for x in [0, 1]. Evaluation must use ``to_unit`` and
``normalise`` too."""


@dataclass(frozen=True)
class AugmentationConfig:
    """How strongly training images are varied. Light, since medical images have a scale and an orientation."""

    flip_probability: float = 0.5
    """Chance of a left-right flip."""
    move_probability: float = 0.5
    """Chance of zoom and shift. Resampling blurs: without images that are left sharp, the encoder would never see
    what validation and use will show it."""
    zoom: float = 0.15
    """Largest relative change of size, up and down alike: the sizes seen in training centre on the true ones."""
    shift: float = 0.1
    """Largest shift, as a share of the side."""
    brightness: float = 0.1
    """Largest change of brightness, in units of the full range."""
    contrast: float = 0.2
    """Largest relative change of contrast."""


def to_unit(images_BCHW: Tensor) -> Tensor:
    """Turn uint8 into float32 in [0, 1]."""
    return images_BCHW.to(torch.float32).div_(255)


def normalise(images_BCHW: Tensor) -> Tensor:
    """Turn [0, 1] with 1 or 3 channels into the encoder's input: 3 channels, (x - 0.5) / 0.5."""
    return images_BCHW.sub(MEAN).div_(STD).expand(-1, 3, -1, -1)


def augment(
    images_BCHW: Tensor, masks_BHW: Tensor | None, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Flip, zoom, shift and change brightness and contrast, each image on its own.

    Images are float32 in [0, 1] and stay there; masks move with their image (nearest neighbour). What comes in
    from outside mirrors the image. ``generator`` lives on the images' device; the same state gives the same result.
    """
    count, device = len(images_BCHW), images_BCHW.device
    draw_B5 = torch.rand((count, 5), generator=generator, device=device)
    flip_B = torch.where(draw_B5[:, 0] < config.flip_probability, -1.0, 1.0)
    moved_B = (draw_B5[:, 1] < config.move_probability).float()
    scale_B = 1 + moved_B * config.zoom * (draw_B5[:, 2] * 2 - 1)
    # The grid spans [-1, 1], so a share of the side is twice as long there.
    shift_B2 = moved_B[:, None] * (draw_B5[:, 3:5] * 2 - 1) * config.shift * 2
    zero_B = torch.zeros_like(scale_B)
    theta_B23 = torch.stack(
        [
            torch.stack([scale_B * flip_B, zero_B, shift_B2[:, 0]], dim=1),
            torch.stack([zero_B, scale_B, shift_B2[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
    moved = functional.grid_sample(images_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    tone_B2 = torch.rand((count, 2), generator=generator, device=device).mul_(2).sub_(1)
    gain = (1 + config.contrast * tone_B2[:, 0]).view(-1, 1, 1, 1)
    offset = (config.brightness * tone_B2[:, 1]).view(-1, 1, 1, 1)
    toned = moved.sub_(0.5).mul_(gain).add_(0.5).add_(offset).clamp_(0, 1)
    if masks_BHW is None:
        return toned, None
    masks = functional.grid_sample(
        masks_BHW[:, None].to(torch.float32), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return toned, masks[:, 0]
