"""One pass over all updates in lockstep: slice by slice, with no thread that waits for another while there is work.

Every thread takes what can be done next: a share of the updates' next slice to read and to hash, and, when it has read
the last share of a slice, the slice to reduce, which still lies in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Generic, Protocol, TypeVar

import numpy as np

from umim.aggregation.interface import Array
from umim.artifacts.floats import FLOATS, SIZES, values_of
from umim.artifacts.layout import Layout, TensorSlot
from umim.artifacts.sources import Scratch, Source

T = TypeVar("T")

SLICE_BYTES = 8 << 20
"""Bytes of the updates' values in a slice: all sites together, so that memory does not grow with their number, and
few, so that they stay in the processor's cache from being read to being hashed and reduced."""
LARGE_SLICE_BYTES = 16 << 20
"""The same where nothing is hashed: the values are read once, and fewer slices cost less of the interpreter's time."""
AHEAD = 4
"""Slices that are held at once: one is written while others are read and reduced."""
SHARES = 2
"""Into how many shares for each thread the updates are dealt: threads that are slow for a while take fewer."""
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

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        """Return the values of a slice: 1-D, float32, or float64 where the model is. They may lie in the buffer."""
        ...


class TensorValues:
    """The reader of a file that holds the values themselves, such as the parent's."""

    def __init__(self, source: Source, layout: Layout) -> None:
        self._source = source
        self._layout = layout

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        """See ``Reader``."""
        slot = self._layout.by_name[piece.slot.name]
        size = SIZES[slot.info.dtype]
        offset, length = slot.start + piece.start * size, (piece.stop - piece.start) * size
        return values_of(self._source.read(offset, length, buffer), slot.info.dtype)


def slices(layout: Layout, sites: int, slice_bytes: int) -> Iterator[Slice]:
    """Yield the floating-point tensors of a model in the order of its file, cut for this number of sites.

    slice_bytes: of the values of all sites together, at most, but ``FEWEST_ELEMENTS`` of each site are in a slice.
    """
    for slot in layout.slots:
        if slot.info.dtype in FLOATS:
            step = max(FEWEST_ELEMENTS, slice_bytes // (sites * max(4, SIZES[slot.info.dtype])))
            for start in range(0, slot.elements, step):
                yield Slice(slot, start, min(start + step, slot.elements))


@dataclass
class _Held(Generic[T]):
    """A slice that is being read or reduced, or waits to be asked for."""

    piece: Slice
    values: list[Array]
    left: int
    """Shares that are not read yet."""
    results: list[T] = field(default_factory=list)
    errors: list[tuple[int, Exception]] = field(default_factory=list)
    """What went wrong, with the number of the reader."""
    done: bool = False


def lockstep(
    readers: Sequence[Reader],
    pieces: Sequence[Slice],
    work: Callable[[Slice, Sequence[Array], int], T],
    pool: ThreadPoolExecutor,
    threads: int,
) -> Generator[tuple[Slice, Sequence[Array], T]]:
    """Yield in order each slice, every reader's values of it, and what ``work`` made of them.

    ``work`` is called in ``threads`` tasks of the pool, for several slices at once, with the slice, the values and a
    turn below ``AHEAD`` that no other slice has before the next but this one is asked for. The values are valid until
    then, too. numpy's errors are ignored in it. Raises what a reader or ``work`` raised, when all slices before have
    been yielded: of several readers the first one's. Afterwards nobody reads any more.
    """
    belt = _Belt(readers, pieces, work, threads)
    tasks = [pool.submit(belt.run) for _ in range(threads)]
    try:
        yield from belt.results()
    finally:
        belt.stop()
        wait(tasks)  # nobody may read from a source that is being closed


class _Belt(Generic[T]):
    """The slices of one pass. Each share of the readers goes over them in order; they come out in order."""

    def __init__(
        self,
        readers: Sequence[Reader],
        pieces: Sequence[Slice],
        work: Callable[[Slice, Sequence[Array], int], T],
        threads: int,
    ) -> None:
        self._readers = readers
        self._pieces = pieces
        self._work = work
        self._shares = min(SHARES * threads, len(readers))
        self._buffers = [[memoryview(b"") for _ in readers] for _ in range(AHEAD)]
        lock = Lock()
        self._claimable = Condition(lock)
        self._ready = Condition(lock)
        self._held: dict[int, _Held[T]] = {}
        self._next = [0] * self._shares
        self._idle = [True] * self._shares
        self._stop = len(pieces)
        """No slice from here on is begun: others have been asked for in vain."""
        self._asked = 0
        """Slices that nobody needs any more."""

    def run(self) -> None:
        """Do what can be done next until nothing is left."""
        with np.errstate(all="ignore"):  # what is not finite is looked for, and named
            while (claimed := self._claim()) is not None:
                share, index, held = claimed
                if self._read(share, index, held):
                    self._reduce(index, held)

    def results(self) -> Generator[tuple[Slice, Sequence[Array], T]]:
        """See ``lockstep``."""
        for index in range(len(self._pieces)):
            with self._ready:
                while index not in self._held or not self._held[index].done:
                    self._ready.wait()
                held = self._held.pop(index)
            if held.errors:
                raise min(held.errors, key=lambda one: one[0])[1]
            yield held.piece, held.values, held.results[0]
            with self._claimable:
                self._asked += 1
                self._claimable.notify_all()

    def stop(self) -> None:
        """Let no slice be begun from here on."""
        with self._claimable:
            self._stop = 0
            self._claimable.notify_all()

    def _claim(self) -> tuple[int, int, _Held[T]] | None:
        """Wait for a share of a slice that can be read and return it. None: there will be none."""
        with self._claimable:
            while True:
                index = min(self._next)
                if index >= self._stop:
                    self._claimable.notify_all()
                    return None
                ready = [share for share in range(self._shares) if self._idle[share]]
                share = min(ready, key=self._next.__getitem__, default=None)
                if share is not None and self._next[share] < min(self._stop, self._asked + AHEAD):
                    return self._begun(share)
                self._claimable.wait()

    def _begun(self, share: int) -> tuple[int, int, _Held[T]]:
        index = self._next[share]
        if index not in self._held:
            values: list[Array] = [np.empty(0, np.float32)] * len(self._readers)
            self._held[index] = _Held(self._pieces[index], values, self._shares)
        self._next[share] += 1
        self._idle[share] = False
        return share, index, self._held[index]

    def _read(self, share: int, index: int, held: _Held[T]) -> bool:
        """Read a share of a slice. Say whether all of the slice is read then, and can be reduced."""
        buffers, number, found = self._buffers[index % AHEAD], share, None
        piece, size = held.piece, held.piece.buffer_bytes
        try:
            for number in range(share, len(self._readers), self._shares):
                if len(buffers[number]) < size:
                    # Not zeroed: a source whose values lie in memory already uses none of it, and then it costs none.
                    buffers[number] = np.empty(size, np.uint8).data
                held.values[number] = self._readers[number].values(piece, buffers[number])
        except Exception as error:  # noqa: BLE001 - raised by ``results``
            found = error
        with self._claimable:
            held.left -= 1
            self._idle[share] = True
            self._claimable.notify()
            if found is not None:
                self._fail(index, held, number, found)
            if held.left == 0 and held.errors:
                self._finish(held)
            return held.left == 0 and not held.errors

    def _reduce(self, index: int, held: _Held[T]) -> None:
        try:
            held.results.append(self._work(held.piece, held.values, index % AHEAD))
        except Exception as error:  # noqa: BLE001 - raised by ``results``
            with self._claimable:
                self._fail(index, held, len(self._readers), error)
        with self._claimable:
            self._finish(held)

    def _fail(self, index: int, held: _Held[T], number: int, error: Exception) -> None:
        held.errors.append((number, error))
        # The other shares still come this far, so that the first reader's error is found.
        self._stop = min(self._stop, index + 1)
        self._claimable.notify_all()

    def _finish(self, held: _Held[T]) -> None:
        held.done = True
        self._ready.notify()
