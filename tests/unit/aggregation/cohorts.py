"""A cohort of changes in memory, for tests of the rules without the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from umim.aggregation.gram import block_gram
from umim.aggregation.interface import Array, Combination, Matrix, Part, Strategy


@dataclass(frozen=True)
class InMemoryCohort:
    """See ``Cohort``: the changes of all sites as the rows of a matrix."""

    changes: Matrix
    shares: tuple[float, ...]
    byzantine: int = 0

    def gram(self) -> Matrix:
        return block_gram(self.changes)

    def thresholds(self, density: float) -> Mapping[str, Matrix]:
        kept = max(1, round(density * self.changes.shape[1]))
        return {"w": np.sort(np.abs(self.changes), axis=1)[:, -kept]}


def cohort(changes: Matrix, byzantine: int = 0, samples: Sequence[int] | None = None) -> InMemoryCohort:
    """Return a cohort of these changes; without samples all sites have equal shares."""
    weights = np.array(samples or [1] * len(changes), np.float64)
    return InMemoryCohort(changes, tuple(float(share) for share in weights / weights.sum()), byzantine)


def merged(strategy: Strategy, of: InMemoryCohort) -> Array:
    """Return the merged change in float64: the parent is 0."""
    plan = strategy.plan(of)
    if isinstance(plan, Combination):
        return np.asarray((np.array(plan.coefficients)[:, None] * of.changes).sum(axis=0))
    return plan.reduce(Part("w", list(of.changes), np.zeros(of.changes.shape[1])))
