"""Geometric median (RFA, Pillutla et al. 2019, arXiv 1912.13445): the model with the least sum of distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.gram import squared_distances, total
from umim.aggregation.interface import Cohort, Combination, Matrix

STILL = 1e-12
"""The iterations stop when no coefficient changes by more."""


@dataclass(frozen=True)
class GeometricMedian:
    """See ``Strategy``. The smoothed Weiszfeld algorithm, from the weighted mean, weighted by samples.

    Every iterate is a combination of the updates, so that all its distances follow from the Gram matrix: the updates
    are read twice, not once an iteration.
    """

    iterations: float = 100
    """Most iterations, a whole number."""
    smoothing: float = 1e-6
    """Smallest distance that is divided by, in the unit of the weights' L2 norm."""

    optimiser = None
    """None: the median is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return the coefficients of the last iterate. Their sum is 1."""
        gram = cohort.gram()
        shares = np.array(cohort.shares)
        coefficients = shares
        for _ in range(int(self.iterations)):
            following = self._following(gram, shares, coefficients)
            still = float(np.abs(following - coefficients).max()) <= STILL
            coefficients = following
            if still:
                break
        return Combination(tuple(float(one) for one in coefficients))

    def _following(self, gram: Matrix, shares: Matrix, coefficients: Matrix) -> Matrix:
        distances = np.sqrt(squared_distances(gram, coefficients))
        weights = shares / np.maximum(distances, self.smoothing)
        return np.asarray(weights / total(weights), np.float64)
