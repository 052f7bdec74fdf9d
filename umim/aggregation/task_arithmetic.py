"""Task arithmetic (Ilharco et al. 2022, arXiv 2212.04089): the parent plus the scaled sum of the sites' changes."""

from __future__ import annotations

from dataclasses import dataclass

from umim.aggregation.interface import Cohort, Combination


@dataclass(frozen=True)
class TaskArithmetic:
    """See ``Strategy``. A sum and not a mean: each site's change stays as large as it is, whoever else takes part."""

    scale: float = 1.0
    """Factor of the sum."""

    optimiser = None
    """None: the sum is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return the scale for each site."""
        return Combination((self.scale,) * len(cohort.shares))
