"""FedAdagrad (Reddi et al. 2020, arXiv 2003.00295): steps shrink with the sum of all squared changes so far."""

from __future__ import annotations

from dataclasses import dataclass

from umim.aggregation.interface import Cohort, Combination, Matrix
from umim.aggregation.server_optimiser import AdaptiveOptimiser


@dataclass(frozen=True)
class FedAdagrad:
    """See ``Strategy``."""

    server_learning_rate: float = 0.1
    """Length of a step."""
    beta1: float = 0.0
    """How much of the first moment stays from round to round."""
    tau: float = 1e-3
    """Added to the square root of the second moment."""

    @property
    def optimiser(self) -> AdaptiveOptimiser:
        """Adagrad."""
        return AdaptiveOptimiser(self.server_learning_rate, self.beta1, self.tau, _second_moment)

    def plan(self, cohort: Cohort) -> Combination:
        """Return each site's share of the samples."""
        return Combination(cohort.shares)


def _second_moment(present: Matrix, squared: Matrix) -> Matrix:
    return present + squared
