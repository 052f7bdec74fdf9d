"""Weighted sums of the sites' changes, with the same bits on any machine.

The sites are summed pairwise in a fixed tree, so that errors grow with the logarithm of their number. The sum is
compiled by numba: every value is read from memory once, and the interpreter's lock is not held. What it compiles rounds
as numpy's elementwise operations do, one by one: without ``fastmath`` LLVM neither reorders operations nor fuses a
multiplication with an addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from umim.aggregation.interface import Array

BLOCK = 4096
"""Values that are summed over all sites at a time: the tree's sums stay in a core's cache, and memory is read in long
stretches."""
LEVELS = 40
"""Sums that the tree may hold at once: more than the logarithm of any number of sites."""


def combined(values: Sequence[Array], parent: Array, coefficients: Sequence[float], out: Array) -> bool:
    """Write parent + sum_k(coefficient_k * (value_k - parent)) to ``out``, in its type. Say whether all is finite.

    All arrays are 1-D, of one type (float32 or float64) and of equal length. The changes are summed and not the values:
    a change is small beside its value, and so is then the rounding. Raises TypeError for another array, ValueError for
    another number of coefficients: compiled code would read memory that is not theirs.
    """
    if len(values) != len(coefficients):
        raise ValueError(f"{len(values)} values and {len(coefficients)} coefficients")
    arrays = [_plain(one, out) for one in (parent, *values)]
    addresses = np.array([one.ctypes.data for one in arrays], np.uint64)
    finite: bool = _combine(addresses, np.array(coefficients, out.dtype), out)
    return finite


def _plain(array: Array, out: Array) -> Array:
    """Return the array, or a copy where its values do not lie as the compiled code reads them."""
    if (array.dtype, array.shape) != (out.dtype, out.shape):
        raise TypeError(f"{array.dtype} of shape {array.shape} beside {out.dtype} of shape {out.shape}")
    return np.require(array, requirements=["C", "A"])


@intrinsic
def _pointer(_context: Any, address: Any, like: Any) -> Any:  # pragma: no cover - compiled
    """Make an address a pointer to values of the type of an array's."""

    def make(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), make


@njit(nogil=True, cache=True)
def _combine(addresses: NDArray[np.uint64], factors: Array, out: Array) -> bool:  # pragma: no cover - compiled
    """See ``combined``. The first address is the parent's; addresses, and not arrays, so that any number will do."""
    sites, size, wrong = factors.size, out.size, 0
    parent = carray(_pointer(addresses[0], out), size)
    sums, levels = np.empty((LEVELS, BLOCK), out.dtype), np.empty(LEVELS, np.int64)
    for start in range(0, size, BLOCK):
        length, before = min(BLOCK, size - start), parent[start:]
        top, site = 0, 0
        while site < sites:
            total, level = sums[top], 0
            one, factor = carray(_pointer(addresses[site + 1], out), size)[start:], factors[site]
            if site + 1 < sites:
                other, second = carray(_pointer(addresses[site + 2], out), size)[start:], factors[site + 1]
                for place in range(length):
                    total[place] = (one[place] - before[place]) * factor + (other[place] - before[place]) * second
                level, site = 1, site + 2
            else:
                for place in range(length):
                    total[place] = (one[place] - before[place]) * factor
                site += 1
            while top > 0 and levels[top - 1] == level:
                top -= 1
                _add(sums[top], sums[top + 1], length)
                level += 1
            levels[top] = level
            top += 1
        while top > 1:
            top -= 1
            _add(sums[top - 1], sums[top], length)
        merged, total = out[start:], sums[0]
        if sites == 0:
            total[:] = 0
        for place in range(length):
            value = total[place] + before[place]
            merged[place] = value
            wrong += not np.isfinite(value)
    return wrong == 0


@njit(nogil=True, cache=True)
def _add(total: Array, other: Array, length: int) -> None:  # pragma: no cover - compiled
    for place in range(length):
        total[place] += other[place]
