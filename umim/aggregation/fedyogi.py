"""FedYogi (Reddi et al. 2020, arXiv 2003.00295): as FedAdam, but the second moment shrinks slowly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.interface import Cohort, Combination, Matrix
from umim.aggregation.server_optimiser import AdaptiveOptimiser


@dataclass(frozen=True)
class FedYogi:
    """See ``Strategy``."""

    server_learning_rate: float = 0.1
    """Length of a step."""
    beta1: float = 0.9
    """How much of the first moment stays from round to round."""
    beta2: float = 0.99
    """1 - beta2 of a squared change is added to the second moment or taken from it."""
    tau: float = 1e-3
    """Added to the square root of the second moment."""

    @property
    def optimiser(self) -> AdaptiveOptimiser:
        """Yogi."""
        return AdaptiveOptimiser(self.server_learning_rate, self.beta1, self.tau, self._second_moment)

    def plan(self, cohort: Cohort) -> Combination:
        """Return each site's share of the samples."""
        return Combination(cohort.shares)

    def _second_moment(self, present: Matrix, squared: Matrix) -> Matrix:
        away: Matrix = np.sign(present - squared)
        return present - (1 - self.beta2) * squared * away
