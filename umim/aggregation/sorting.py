"""The middle of the sites' values at every place, by size: what the median and the trimmed mean are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from umim.aggregation.interface import Array

NETWORK_SITES = 32
"""With more sites, sorting each place's values takes about as long as a network or less: it grows with K log K, not
K log^2 K. Measured with 16 sites: 10 times as long."""
CACHED_BYTES = 1 << 20
"""Of all sites' values that are compared at a time: they stay in a core's cache. Measured: with half or a quarter of it
calling numpy takes longer than the comparisons."""

Comparator = tuple[int, int, bool, bool]
"""Two wires, and which of their two outputs (the smaller, the larger) anybody needs."""


def middle(values: Sequence[Array], drop: int) -> Iterator[tuple[slice, list[Array]]]:
    """Yield, piece by piece, all but the ``drop`` smallest and largest values at each place.

    ``values`` are 1-D arrays of equal length without NaN, more than 2 x ``drop`` of them; they are not changed.
    The yielded arrays hold each place's values in some order that depends on the values only; they are valid until the
    next piece is asked for. Zeros may have either sign, and not the same on every machine.
    """
    length, sites = values[0].size, len(values)
    step = max(256, CACHED_BYTES // (sites * values[0].itemsize))
    network = middle_network(sites, drop) if sites <= NETWORK_SITES else None
    scratch = np.empty((sites + 2, min(step, length)), values[0].dtype)
    for start in range(0, length, step):
        piece = slice(start, min(start + step, length))
        parts = [one[piece] for one in values]
        yield piece, _sorted(parts, drop) if network is None else _compared(parts, drop, network, scratch)


@lru_cache(maxsize=64)
def middle_network(sites: int, drop: int) -> tuple[Comparator, ...]:
    """Return a network after which the wires from ``drop`` to ``sites - drop`` hold the values in the middle.

    Batcher's odd-even merge sort, without the comparators that only bring the middle itself in order and without the
    outputs that nobody needs.
    """
    needed = [drop <= wire < sites - drop for wire in range(sites)]
    loose = list(needed)  # in the middle, and no later comparator looks at it
    kept: list[Comparator] = []
    for low, high in reversed(list(_batcher(sites))):
        if (loose[low] and loose[high]) or not (needed[low] or needed[high]):
            continue
        kept.append((low, high, needed[low], needed[high]))
        needed[low] = needed[high] = True
        loose[low] = loose[high] = False
    return tuple(reversed(kept))


def _batcher(sites: int) -> Iterator[tuple[int, int]]:
    """Yield the comparators of Batcher's odd-even merge sort (1968; Knuth, volume 3, algorithm 5.2.2 M)."""
    power = 1 << max(0, (sites - 1).bit_length() - 1)
    outer = power
    while outer > 0:
        inner, start, distance = power, 0, outer
        while True:
            for wire in range(sites - distance):
                if wire & outer == start:
                    yield wire, wire + distance
            if inner == outer:
                break
            distance, inner, start = inner - outer, inner >> 1, outer
        outer >>= 1


def _compared(parts: Sequence[Array], drop: int, network: Sequence[Comparator], scratch: Array) -> list[Array]:
    wires = list(parts)
    own = [False] * len(parts)  # whether a wire's array is scratch, which may be written
    free = [row[: parts[0].size] for row in scratch]
    for low, high, want_low, want_high in network:
        smaller = free.pop() if want_low else None
        if want_low:
            np.minimum(wires[low], wires[high], out=smaller)
        larger = free.pop() if want_high else None
        if want_high:
            np.maximum(wires[low], wires[high], out=larger)
        for wire, output in ((low, smaller), (high, larger)):
            if own[wire]:
                free.append(wires[wire])
            if output is not None:
                wires[wire], own[wire] = output, True
            else:
                own[wire] = False
    return wires[drop : len(wires) - drop]


def _sorted(parts: Sequence[Array], drop: int) -> list[Array]:
    rows = np.stack(parts, axis=1)
    rows.sort(axis=1)
    return list(np.ascontiguousarray(rows[:, drop : len(parts) - drop].T))
