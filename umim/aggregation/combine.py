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

BLOCK = 8192
"""Values that are summed over all sites at a time: the tree's sums stay in a core's cache, and memory is read in long
stretches. A quarter of it took less time for values in the cache and more for values in memory (a busy machine)."""
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
    addresses = np.array([_address(one) for one in arrays], np.uint64)
    finite: bool = _combine(addresses, np.array(coefficients, out.dtype), out)
    return finite


def _plain(array: Array, out: Array) -> Array:
    """Return the array, or a copy where its values do not lie as the compiled code reads them."""
    if (array.dtype, array.shape) != (out.dtype, out.shape):
        raise TypeError(f"{array.dtype} of shape {array.shape} beside {out.dtype} of shape {out.shape}")
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])


@njit(cache=True)
def _address(array: Array) -> int:  # pragma: no cover - compiled
    """Return where the values lie: compiled, since numpy makes an object for the answer, and there are many."""
    return array.ctypes.data


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
            level = _changes(addresses, factors, site, start, before, sums[top], length)
            site += 1 << level
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
            wrong += (value - value) != 0  # np.isfinite, which LLVM does not vectorise
    return wrong == 0


@njit(nogil=True, cache=True)
def _changes(
    addresses: NDArray[np.uint64], factors: Array, site: int, start: int, before: Array, total: Array, length: int
) -> int:  # pragma: no cover - compiled
    """Sum the weighted changes of the next 4, 2 or 1 sites as the tree does; return the level of their sum in it."""
    left = factors.size - site
    one, first = carray(_pointer(addresses[site + 1], total), start + length)[start:], factors[site]
    if left < 2:
        for place in range(length):
            total[place] = (one[place] - before[place]) * first
        return 0
    two, second = carray(_pointer(addresses[site + 2], total), start + length)[start:], factors[site + 1]
    if left < 4:
        for place in range(length):
            total[place] = (one[place] - before[place]) * first + (two[place] - before[place]) * second
        return 1
    three, third = carray(_pointer(addresses[site + 3], total), start + length)[start:], factors[site + 2]
    four, fourth = carray(_pointer(addresses[site + 4], total), start + length)[start:], factors[site + 3]
    for place in range(length):
        base = before[place]
        pair = (one[place] - base) * first + (two[place] - base) * second
        total[place] = pair + ((three[place] - base) * third + (four[place] - base) * fourth)
    return 2


@njit(nogil=True, cache=True)
def _add(total: Array, other: Array, length: int) -> None:  # pragma: no cover - compiled
    for place in range(length):
        total[place] += other[place]
