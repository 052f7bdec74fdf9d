"""FedAdam (Reddi et al. 2020, arXiv 2003.00295): Adam on the server, with the mean change as gradient."""

from __future__ import annotations

from dataclasses import dataclass

from umim.aggregation.interface import Cohort, Combination, Matrix
from umim.aggregation.server_optimiser import AdaptiveOptimiser


@dataclass(frozen=True)
class FedAdam:
    """See ``Strategy``."""

    server_learning_rate: float = 0.1
    """Length of a step."""
    beta1: float = 0.9
    """How much of the first moment stays from round to round."""
    beta2: float = 0.99
    """How much of the second moment stays."""
    tau: float = 1e-3
    """Added to the square root of the second moment."""

    @property
    def optimiser(self) -> AdaptiveOptimiser:
        """Made of this strategy's second moment."""
        return AdaptiveOptimiser(self.server_learning_rate, self.beta1, self.tau, self._second_moment)

    def plan(self, cohort: Cohort) -> Combination:
        """Return each site's share of the samples."""
        return Combination(cohort.shares)

    def _second_moment(self, present: Matrix, squared: Matrix) -> Matrix:
        return self.beta2 * present + (1 - self.beta2) * squared
