"""One pass over all updates in lockstep: slice by slice, the next one read while the present one is reduced."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from umim.aggregation.interface import Array
from umim.artifacts.floats import FLOATS, SIZES, values_of
from umim.artifacts.layout import Layout, TensorSlot
from umim.artifacts.sources import Source

BUDGET_BYTES = 16 << 20
"""Bytes of the updates' values that are held at once, and again as much that is read ahead: all sites together, so
that memory does not grow with their number."""
FEWEST_ELEMENTS = 1 << 10
"""Of one site in a slice: a thousand sites still read a page at a time."""


@dataclass(frozen=True)
class Slice:
    """A piece of one tensor."""

    slot: TensorSlot
    """The tensor, in the parent."""
    start: int
    """Index of its first value in the flat tensor."""
    stop: int
    """Index behind its last value."""

    @property
    def buffer_bytes(self) -> int:
        """Bytes that its values take in a file, in any encoding: changes of 16-bit values are float32."""
        return (self.stop - self.start) * max(4, SIZES[self.slot.info.dtype])


class Reader(Protocol):
    """Reads values of one update in the order of the slices. One thread at a time uses a reader."""

    def values(self, piece: Slice, buffer: bytearray) -> Array:
        """Return the values of a slice: 1-D, float32, or float64 where the model is. They may lie in the buffer."""
        ...


class TensorValues:
    """The reader of a file that holds the values themselves, such as the parent's."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source = source
        self._layout = layout

    def values(self, piece: Slice, buffer: bytearray) -> Array:
        """See ``Reader``."""
        slot = self._layout.by_name[piece.slot.name]
        size = SIZES[slot.info.dtype]
        offset, length = slot.start + piece.start * size, (piece.stop - piece.start) * size
        return values_of(self._source.read(offset, length, buffer), slot.info.dtype)


def slices(layout: Layout, sites: int) -> Iterator[Slice]:
    """Yield the floating-point tensors of a model in the order of its file, cut for this number of sites."""
    for slot in layout.slots:
        if slot.info.dtype in FLOATS:
            step = max(FEWEST_ELEMENTS, BUDGET_BYTES // (sites * max(4, SIZES[slot.info.dtype])))
            for start in range(0, slot.elements, step):
                yield Slice(slot, start, min(start + step, slot.elements))


def lockstep(
    readers: Sequence[Reader], pieces: Iterator[Slice], pool: ThreadPoolExecutor, workers: int
) -> Generator[tuple[Slice, list[Array]]]:
    """Yield each slice with every reader's values of it. They are valid until the next one is asked for.

    The pool reads: each of ``workers`` tasks its share of the readers, one slice ahead.
    """
    buffers = [[bytearray() for _ in readers] for _ in range(2)]
    tasks = max(1, min(workers, len(readers)))

    def read(piece: Slice, turn: int, first: int) -> list[Array]:
        return [_read(readers[number], piece, buffers[turn], number) for number in range(first, len(readers), tasks)]

    ahead: list[Future[list[Array]]] = []
    try:
        previous: Slice | None = None
        for count, piece in enumerate(pieces):
            found = [future.result() for future in ahead]
            ahead = [pool.submit(read, piece, count % 2, first) for first in range(tasks)]
            if previous is not None:
                yield previous, _in_order(found, len(readers))
            previous = piece
        if previous is not None:
            yield previous, _in_order([future.result() for future in ahead], len(readers))
    finally:
        wait(ahead)  # nobody may read from a source that is being closed


def _read(reader: Reader, piece: Slice, buffers: list[bytearray], number: int) -> Array:
    if len(buffers[number]) < piece.buffer_bytes:
        buffers[number] = bytearray(piece.buffer_bytes)
    return reader.values(piece, buffers[number])


def _in_order(found: list[list[Array]], count: int) -> list[Array]:
    return [found[number % len(found)][number // len(found)] for number in range(count)]
