"""TIES merging (Yadav et al. 2023, arXiv 2306.01708): trim, elect a sign, mean of what agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from umim.aggregation.interface import Array, Cohort, Matrix, Part


@dataclass(frozen=True)
class Ties:
    """See ``Strategy``. ``density`` is the share of the largest changes that each site keeps, tensor by tensor.

    The paper trims over the whole model; tensor by tensor keeps the memory flat, and a layer that changes little
    keeps its say. The elected sign is that of the weighted sum, and the mean is over the sites that agree with it,
    weighted by samples.
    """

    density: float = 1.0
    """Share of the changes that each site keeps."""

    optimiser = None
    """None: the merge is the model."""

    def plan(self, cohort: Cohort) -> TiesReduction:
        """Return how to merge the values. Needs a pass over the updates unless everything is kept."""
        return TiesReduction(cohort.shares, None if self.density == 1 else cohort.thresholds(self.density))


@dataclass(frozen=True)
class TiesReduction:
    """See ``Reduction``: parent + the mean of the changes that are kept and have the elected sign."""

    shares: Sequence[float]
    """Each site's share of the samples."""
    thresholds: Mapping[str, Matrix] | None
    """By tensor, the smallest magnitude that each site keeps, [K]. None: all are kept."""

    def reduce(self, part: Part) -> Array:
        """See ``Reduction``. Computed in float64."""
        changes = [self._kept(part, number) for number in range(len(part.values))]
        elected = np.zeros(part.parent.size)
        for change in changes:
            elected += change
        sign = np.sign(elected)
        summed, weight = np.zeros(part.parent.size), np.zeros(part.parent.size)
        for change, share in zip(changes, self.shares, strict=True):
            agrees = (np.sign(change) == sign) & (change != 0)
            summed += np.where(agrees, change, 0.0)
            weight += agrees * share
        mean = np.divide(summed, weight, out=np.zeros(part.parent.size), where=weight > 0)
        merged: Array = np.add(mean, part.parent).astype(part.parent.dtype)
        return merged

    def _kept(self, part: Part, number: int) -> Matrix:
        """Return a site's change, times its share of the samples, with what it does not keep set to 0."""
        # In the type of the values: the thresholds were taken from these very differences.
        change = part.values[number] - part.parent
        shared = change.astype(np.float64) * self.shares[number]
        if self.thresholds is not None:
            shared[np.abs(change) < self.thresholds[part.name][number]] = 0.0
        return shared
