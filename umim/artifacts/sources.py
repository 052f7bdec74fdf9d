"""Where the bytes of a tensors file come from: a file, memory, or the store. Read in pieces, hashed while they pass."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError

GAP_BYTES = 1 << 20
"""Piece in which bytes are read that are only hashed."""

MAPPED_READS = 4
"""After so many reads of a mapped file what lies before the last so many is unmapped."""

Scratch = bytearray | memoryview
"""Bytes that whoever reads may write to."""


class Source(Protocol):
    """Bytes of known number. One thread at a time uses a source."""

    size: int
    """Number of bytes."""

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        """Return ``length`` bytes from ``offset``, in ``buffer`` (at least as large) or where they lie already.

        They stay valid until the buffer is used again. Raises ArtifactError when there are fewer, and the store's
        errors.
        """
        ...


class MemorySource:
    """Bytes in memory. Reading copies nothing."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self.size = len(data)

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:  # noqa: ARG002 - see Source
        """See ``Source``."""
        return _whole(self._data[offset : offset + length], offset, length, "the tensors in memory")


class MappedSource:
    """A file that nobody else can change, such as one that this process fetched and verified. Reading copies nothing.

    Not for others' files: a mapping shows what is written to the file later, and ends the process with a signal where
    the file has become shorter. What was read a while ago is unmapped again, so that a file takes a few megabytes of
    resident memory, whatever its size.
    """

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError when there is no such file."""
        self._path = path
        try:
            with path.open("rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                # An empty file cannot be mapped.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except OSError as error:
            raise ArtifactError(f"{path.name} cannot be read: {error.strerror}") from error
        self._view = memoryview(self._map or b"")
        self._reads = 0
        self._kept = self._next = 0
        """From where on the file may be mapped, and from where on it stays so at the next look."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not closed: that is refused while somebody holds a view. It goes with the last one.
        self._map, self._view = None, memoryview(b"")

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:  # noqa: ARG002 - see Source
        """See ``Source``. Views stay valid."""
        self._reads += 1
        if self._reads % MAPPED_READS == 0:
            self._unmap_before(offset)
        return _whole(self._view[offset : offset + length], offset, length, self._path.name)

    def _unmap_before(self, offset: int) -> None:
        start, stop = self._kept, min(self._next, offset) // mmap.PAGESIZE * mmap.PAGESIZE
        if self._map is not None and start < stop:
            # Whoever still reads there gets it mapped again: what is read a few slices later would be too early.
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)
        self._kept, self._next = stop, offset


class StoredSource:
    """An object in the store, read in ranges. Holds one range, so that small pieces cost few requests."""

    def __init__(self, store: ObjectStore, key: str, size: int, range_bytes: int) -> None:
        self._store = store
        self._key = key
        self._range_bytes = range_bytes
        self._start = 0
        self._held = memoryview(b"")
        self.size = size

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        """See ``Source``."""
        view, done = memoryview(buffer)[:length], 0
        while done < length:
            at = offset + done - self._start
            if not 0 <= at < len(self._held):
                self._fetch(offset + done)
                at = 0
            # Copied: a view would keep its range in memory beside the next.
            piece = self._held[at : at + length - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        return _whole(view[:done], offset, length, self._key)

    def _fetch(self, offset: int) -> None:
        self._held = memoryview(b"")  # before the next: never two at once
        self._held = memoryview(self._store.read_range(self._key, offset, self._range_bytes))
        self._start = offset


class HashingSource:
    """Passes a source on and hashes its bytes in their order while they pass.

    What a reader leaves out is read for the hash alone; what it reads again is not hashed again.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._front = 0
        self.size = source.size

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        """See ``Source``."""
        self._hash_up_to(offset)
        view = self._source.read(offset, length, buffer)
        if offset + length > self._front:
            self._digest.update(view[self._front - offset :])
            self._front = offset + length
        return view

    def finish(self) -> str:
        """Hash what was not read and return the sha256 of all bytes in hexadecimal."""
        self._hash_up_to(self.size)
        return self._digest.hexdigest()

    def _hash_up_to(self, offset: int) -> None:
        buffer = bytearray(min(GAP_BYTES, max(0, offset - self._front)))
        while self._front < offset:
            length = min(len(buffer), offset - self._front)
            self._digest.update(self._source.read(self._front, length, buffer))
            self._front += length


def _whole(view: memoryview, offset: int, length: int, what: str) -> memoryview:
    if len(view) < length:
        raise ArtifactError(f"{what} ends at byte {offset + len(view)}, {offset + length} were expected")
    return view
