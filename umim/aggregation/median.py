"""Coordinate median (Yin et al. 2018, arXiv 1803.01498): at every place the value in the middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.interface import Array, Cohort, Part
from umim.aggregation.sorting import middle


class Median:
    """See ``Strategy``. All sites count the same: who may lie may lie about its samples."""

    optimiser = None
    """None: the median is the model."""

    def plan(self, cohort: Cohort) -> MiddleReduction:
        """Return the mean of the one or two values in the middle."""
        return MiddleReduction((len(cohort.shares) - 1) // 2)


@dataclass(frozen=True)
class MiddleReduction:
    """See ``Reduction``."""

    drop: int
    """How many values lie on each side of the middle: (K - 1) // 2 of K."""

    def reduce(self, part: Part) -> Array:
        """Return the middle value at each place, or the mean of the two in the middle."""
        merged = np.empty_like(part.parent)
        for piece, values in middle(part.values, self.drop):
            out = merged[piece]
            if len(values) == 1:
                out[:] = values[0]
            else:
                # Halves first: a sum could leave the range.
                np.multiply(values[0], 0.5, out=out)
                out += values[1] * out.dtype.type(0.5)
        # Which zero a minimum of +0 and -0 is depends on the machine. -0 + 0 is +0 on all.
        merged += 0.0
        return merged
