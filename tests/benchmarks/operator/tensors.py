"""The tiny model of the load: what is measured is the operator, which reads manifests and never a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ARCHITECTURE = "test_vit"
IMAGE_SIZE = 32
VARIANTS = 8
"""Different updates; site number n leaves the update n modulo VARIANTS."""
SHAPES = {"blocks.0.weight": (16, 16), "blocks.0.bias": (16,), "norm.weight": (16,)}


def parent() -> dict[str, Tensor]:
    """Return the model that all rounds start from."""
    return _draw(0)


def variant(number: int) -> dict[str, Tensor]:
    """Return what a site leaves: the parent and a change of its own."""
    change = _draw(1 + number)
    return {name: tensor + 0.1 * change[name] for name, tensor in parent().items()}


def samples(number: int) -> int:
    """Return how many images a site trained on, by its number."""
    return 100 + number % 37


def merged(sites: Sequence[int]) -> dict[str, Tensor]:
    """Return the mean that fedavg must give over sites, in float64."""
    total = sum(samples(number) for number in sites)
    shares = [sum(samples(n) for n in sites if n % VARIANTS == number) / total for number in range(VARIANTS)]
    models = [variant(number) for number in range(VARIANTS)]
    return {
        name: torch.stack([share * model[name].double() for share, model in zip(shares, models, strict=True)]).sum(0)
        for name in SHAPES
    }


def _draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
