"""Adaptive optimisers on the server (Reddi et al. 2020, "Adaptive federated optimization", arXiv 2003.00295)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from umim.aggregation.interface import Matrix

SecondMoment = Callable[[Matrix, Matrix], Matrix]
"""The next second moment of the present one and the squared change."""


@dataclass(frozen=True)
class AdaptiveOptimiser:
    """See ``ServerOptimiser``: algorithm 2 of the paper, without bias correction, as there.

    One difference: the second moment starts at 0 and not at tau^2, as Flower's does. Tau in the divisor keeps the
    first steps finite all the same.
    """

    learning_rate: float
    """Length of a step."""
    beta1: float
    """How much of the first moment stays from round to round."""
    tau: float
    """Added to the square root of the second moment: the larger, the less adaptive."""
    second_moment: SecondMoment
    """What makes FedAdam, FedYogi and FedAdagrad different."""

    slots = ("first_moment", "second_moment")
    """See ``ServerOptimiser``."""

    def step(self, change: Matrix, state: Mapping[str, Matrix]) -> tuple[Matrix, Mapping[str, Matrix]]:
        """See ``ServerOptimiser``."""
        first = self.beta1 * state["first_moment"] + (1 - self.beta1) * change
        second = self.second_moment(state["second_moment"], change * change)
        applied = self.learning_rate * first / (np.sqrt(second) + self.tau)
        return applied, {"first_moment": first, "second_moment": second}
