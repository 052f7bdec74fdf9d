"""Weighted sums of the sites' changes, with the same bits on any machine.

Products and sums are elementwise numpy operations, which IEEE 754 rounds in one way only: no BLAS, no fused
multiply-add. The sites are summed pairwise in a fixed tree, so that errors grow with the logarithm of their number.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from umim.aggregation.interface import Array


class Scratch(threading.local):
    """Each thread's arrays for sums: fresh memory for every chunk would cost as much as the sums themselves."""

    def __init__(self) -> None:
        self.free: list[Array] = []
        """Arrays that nobody uses now."""

    def take(self, like: Array) -> Array:
        """Return an array of the length and type of another, with any content."""
        while self.free:
            array = self.free.pop()
            if array.size >= like.size and array.dtype == like.dtype:
                return array
        return np.empty_like(like)


def combined_change(
    values: Sequence[Array], parent: Array, coefficients: Sequence[float], out: Array, scratch: Scratch
) -> None:
    """Write sum_k(coefficient_k * (value_k - parent)) to ``out``, in the type of the values.

    All arrays are 1-D and of equal length. The changes are summed and not the values: a change is small beside its
    value, and so is then the rounding. Holds a few arrays more than the logarithm of the number of sites.
    """
    kind, size = parent.dtype.type, parent.size
    sums: list[tuple[int, Array]] = []
    for value, coefficient in zip(values, coefficients, strict=True):
        level, total = 0, scratch.take(parent)
        part = total[:size]
        np.subtract(value, parent, out=part)
        np.multiply(part, kind(coefficient), out=part)
        while sums and sums[-1][0] == level:
            _add(sums[-1][1], total, size, scratch)
            total = sums.pop()[1]
            level += 1
        sums.append((level, total))
    while len(sums) > 1:
        _add(sums[-2][1], sums.pop()[1], size, scratch)
    if sums:
        total = sums.pop()[1]
        out[:] = total[:size]
        scratch.free.append(total)
    else:
        out.fill(0)


def _add(total: Array, other: Array, size: int, scratch: Scratch) -> None:
    np.add(total[:size], other[:size], out=total[:size])
    scratch.free.append(other)
