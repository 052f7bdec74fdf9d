"""FedAvgM (Hsu et al. 2019, arXiv 1909.06335): the mean change gathers momentum from round to round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umim.aggregation.interface import Cohort, Combination, Matrix


@dataclass(frozen=True)
class Momentum:
    """See ``ServerOptimiser``."""

    momentum: float
    """How much of the velocity stays from round to round."""
    learning_rate: float
    """Factor of the velocity."""

    slots = ("velocity",)
    """See ``ServerOptimiser``."""

    def step(self, change: Matrix, state: Mapping[str, Matrix]) -> tuple[Matrix, Mapping[str, Matrix]]:
        """See ``ServerOptimiser``."""
        velocity = self.momentum * state["velocity"] + change
        return self.learning_rate * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class FedAvgM:
    """See ``Strategy``."""

    momentum: float = 0.9
    """How much of the velocity stays from round to round."""
    server_learning_rate: float = 1.0
    """Factor of the velocity."""

    @property
    def optimiser(self) -> Momentum:
        """Stochastic gradient descent with momentum."""
        return Momentum(self.momentum, self.server_learning_rate)

    def plan(self, cohort: Cohort) -> Combination:
        """Return each site's share of the samples."""
        return Combination(cohort.shares)
