"""Trimmed mean (Yin et al. 2018, arXiv 1803.01498): at every place the mean without the smallest and largest values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.interface import Array, Cohort, Part
from umim.aggregation.sorting import middle


@dataclass(frozen=True)
class TrimmedMean:
    """See ``Strategy``. All sites count the same: who may lie may lie about its samples."""

    optimiser = None
    """None: the mean is the model."""

    def plan(self, cohort: Cohort) -> TrimmedMeanReduction:
        """Return the mean without as many values at each end as sites may lie."""
        return TrimmedMeanReduction(cohort.byzantine)


@dataclass(frozen=True)
class TrimmedMeanReduction:
    """See ``Reduction``."""

    drop: int
    """How many values are dropped at each end. There are more than twice as many sites."""

    def reduce(self, part: Part) -> Array:
        """Return parent + the mean of the changes of what is left: changes are small, and so is their rounding."""
        merged = np.empty_like(part.parent)
        change = np.empty_like(part.parent)
        share = merged.dtype.type(1 / (len(part.values) - 2 * self.drop))
        for piece, values in middle(part.values, self.drop):
            out, one, parent = merged[piece], change[piece], part.parent[piece]
            np.subtract(values[0], parent, out=out)
            for value in values[1:]:
                np.subtract(value, parent, out=one)
                out += one
            out *= share
            out += parent
        # Which zero a minimum of +0 and -0 is depends on the machine. -0 + 0 is +0 on all.
        merged += 0.0
        return merged
