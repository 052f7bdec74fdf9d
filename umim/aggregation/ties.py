"""TIES merging (Yadav et al. 2023, arXiv 2306.01708): trim, elect a sign, mean of what agrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from umim.aggregation.reader import TensorSource, WeightedUpdate


class Ties:
    """See ``Strategy``. ``density`` is the share of the largest changes that each site keeps, tensor by tensor.

    The paper trims over the whole model; tensor by tensor keeps the memory flat, and a layer that changes little
    keeps its say. The elected sign is that of the weighted sum, and the mean is over the sites that agree with it,
    weighted by samples.
    """

    def __init__(self, density: float = 1.0) -> None:
        self.density = density

    def merge(
        self,
        parent: TensorSource,
        updates: Sequence[WeightedUpdate],
        names: Sequence[str],
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield parent + the agreeing mean of the trimmed changes for every name."""
        total = sum(update.samples for update in updates)
        for name in names:
            before = parent.read(name).to(torch.float64)
            changes = [self._trimmed(update.tensors.read(name).to(torch.float64) - before) for update in updates]
            shares = [update.samples / total for update in updates]
            elected = torch.zeros_like(before)
            for change, share in zip(changes, shares, strict=True):
                elected += change * share
            sign = elected.sign()
            summed, weight = torch.zeros_like(before), torch.zeros_like(before)
            for change, share in zip(changes, shares, strict=True):
                agrees = (change.sign() == sign) & (change != 0)
                summed += torch.where(agrees, change * share, 0.0)
                weight += agrees.to(torch.float64) * share
            yield name, before + summed / weight.clamp_min(torch.finfo(torch.float64).tiny)

    def _trimmed(self, change: torch.Tensor) -> torch.Tensor:
        """Return the change with all but its largest values, by magnitude, set to 0."""
        kept = max(1, round(self.density * change.numel()))
        if kept == change.numel():
            return change
        threshold = change.abs().flatten().kthvalue(change.numel() - kept + 1).values
        return torch.where(change.abs() >= threshold, change, 0.0)
