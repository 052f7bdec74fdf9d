"""The mean of the updates in which every site counts the same, however many images it has."""

from __future__ import annotations

from umim.aggregation.interface import Cohort, Combination


class Uniform:
    """See ``Strategy``. A small hospital counts as much as a large one, and nobody gains by lying about its samples."""

    optimiser = None
    """None: the mean is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return 1 / K for each of K sites."""
        count = len(cohort.shares)
        return Combination((1 / count,) * count)
