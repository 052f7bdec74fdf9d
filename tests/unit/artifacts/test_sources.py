"""Sources: the same bytes from a file, memory and the store; what is short is said; bytes are hashed once, in order."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umim.artifacts.memory import MemoryStore
from umim.artifacts.sources import (
    GAP_BYTES,
    MAPPED_READS,
    HashingSource,
    MappedSource,
    MemorySource,
    Scratch,
    Source,
    StoredSource,
)
from umim.errors import ArtifactError, NotFoundError

KEY = "updates/one.safetensors"
READS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 120)), max_size=12)


class CountingStore(MemoryStore):
    """A store that notes the ranges it is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.ranges: list[tuple[int, int]] = []
        self.put(KEY, data)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        return super().read_range(key, offset, length)


class CountingSource:
    """Bytes in memory that note what is read of them."""

    def __init__(self, data: bytes) -> None:
        self._source = MemorySource(data)
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        assert len(buffer) >= length
        self.reads.append((offset, length))
        return self._source.read(offset, length, buffer)


@contextmanager
def sources(data: bytes, folder: Path, size: int, range_bytes: int) -> Iterator[list[Source]]:
    """A source of each kind with the same bytes. ``size`` is what a manifest says of the stored one."""
    path = folder / "file"
    path.write_bytes(data)
    with MappedSource(path) as mapped:
        yield [mapped, MemorySource(data), StoredSource(CountingStore(data), KEY, size, range_bytes)]


def within(reads: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The reads, moved and cut so that they lie in ``size`` bytes."""
    return [(min(offset, size), min(length, size - min(offset, size))) for offset, length in reads]


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), reads=READS, range_bytes=st.integers(1, 400))
def test_every_source_gives_the_same_bytes_for_any_reads(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, reads: list[tuple[int, int]], range_bytes: int
) -> None:
    with sources(data, tmp_path_factory.mktemp("reads"), len(data), range_bytes) as found:
        buffers = [bytearray(300) for _ in found]
        for source, buffer in zip(found, buffers, strict=True):
            assert source.size == len(data)
            for offset, length in within(reads, len(data)):
                assert source.read(offset, length, buffer) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (9, 2), (10, 1), (30, 4)])
def test_a_source_that_is_too_short_is_an_artifact_error(tmp_path: Path, offset: int, length: int) -> None:
    with sources(b"0123456789", tmp_path, 100, 4) as found:
        for source in found:
            with pytest.raises(ArtifactError, match=f"ends at byte .*, {offset + length} were expected"):
                source.read(offset, length, bytearray(length))


def test_a_short_source_says_where_it_ends(tmp_path: Path) -> None:
    with sources(b"0123456789", tmp_path, 100, 4) as found:
        for source, name in zip(found, ("file", "the tensors in memory", KEY), strict=True):
            with pytest.raises(ArtifactError, match=f"^{name} ends at byte 10, 12 were expected"):
                source.read(7, 5, bytearray(5))


@pytest.mark.parametrize("name", ["none", "folder"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=f"^{name} cannot be read"):
        MappedSource(tmp_path / name)


def test_what_is_read_of_a_mapped_file_stays_valid_when_it_is_unmapped_and_closed(tmp_path: Path) -> None:
    data = bytes(number % 251 for number in range(64 * mmap.PAGESIZE + 5))
    (tmp_path / "file").write_bytes(data)
    with MappedSource(tmp_path / "file") as source:
        pieces = range(0, len(data), mmap.PAGESIZE)
        for _ in range(2):  # passes
            views = [source.read(at, min(mmap.PAGESIZE, len(data) - at), bytearray()) for at in pieces]
    assert b"".join(views) == data


def test_a_read_of_a_mapped_file_far_ahead_unmaps_what_lies_before(tmp_path: Path) -> None:
    step, count = 1 << 20, 64
    (tmp_path / "file").write_bytes(bytes(step * count))
    with MappedSource(tmp_path / "file") as source:
        most = 0
        for number in range(count):
            hashlib.sha256(source.read(number * step, step, bytearray()))
            most = max(most, _mapped_bytes(tmp_path / "file"))
        assert most <= 3 * MAPPED_READS * step


def _mapped_bytes(path: Path) -> int:
    """Return how many bytes of a file this process holds mapped."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    held = 0
    for line in lines:
        if line.endswith(str(path)):
            held += next(int(one.split()[1]) << 10 for one in lines if one.startswith("Rss:"))
    return held


def test_an_object_that_is_gone_is_the_stores_error() -> None:
    with pytest.raises(NotFoundError, match=KEY):
        StoredSource(MemoryStore(), KEY, 10, 4).read(0, 1, bytearray(1))


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    range_bytes=st.integers(1, 100),
)
def test_reading_on_in_pieces_asks_the_store_for_each_range_once(pieces: list[int], range_bytes: int) -> None:
    data = bytes(number % 251 for number in range(sum(pieces)))
    store = CountingStore(data)
    source, offset = StoredSource(store, KEY, len(data), range_bytes), 0
    for piece in pieces:
        assert source.read(offset, piece, bytearray(piece)) == data[offset : offset + piece]
        offset += piece
    assert store.ranges == [(start, range_bytes) for start in range(0, len(data), range_bytes)]


def test_reading_again_in_the_held_range_asks_the_store_for_nothing() -> None:
    store = CountingStore(bytes(range(100)))
    source = StoredSource(store, KEY, 100, 50)
    for offset, length in [(10, 8), (10, 8), (40, 20), (55, 3), (60, 40)]:
        source.read(offset, length, bytearray(length))
    assert store.ranges == [(10, 50), (60, 50)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), READS)
def test_the_hash_is_that_of_all_bytes_whatever_is_left_out_or_read_again(
    data: bytes, reads: list[tuple[int, int]]
) -> None:
    counting = CountingSource(data)
    source = HashingSource(counting)
    assert source.size == len(data)
    asked = within(reads, len(data))
    for offset, length in asked:
        assert source.read(offset, length, bytearray(length)) == data[offset : offset + length]
    assert source.finish() == hashlib.sha256(data).hexdigest()
    assert source.finish() == hashlib.sha256(data).hexdigest()
    front, gaps = 0, 0
    for offset, length in asked:
        gaps += max(0, offset - front)
        front = max(front, offset + length)
    assert sum(length for _, length in counting.reads) == sum(length for _, length in asked) + gaps + len(data) - front


def test_gaps_are_read_in_pieces_of_bounded_size() -> None:
    data = bytes(2 * GAP_BYTES + 5)
    counting = CountingSource(data)
    assert HashingSource(counting).finish() == hashlib.sha256(data).hexdigest()
    assert counting.reads == [(0, GAP_BYTES), (GAP_BYTES, GAP_BYTES), (2 * GAP_BYTES, 5)]


def test_a_damaged_byte_anywhere_changes_the_hash() -> None:
    data = bytes(range(40))
    expected = hashlib.sha256(data).hexdigest()
    for at in range(40):
        damaged = bytearray(data)
        damaged[at] ^= 1
        source = HashingSource(MemorySource(damaged))
        source.read(10, 10, bytearray(10))
        source.read(30, 5, bytearray(5))
        assert source.finish() != expected


def test_the_hash_of_a_source_that_is_too_short_is_an_artifact_error() -> None:
    source = HashingSource(StoredSource(CountingStore(b"0123456789"), KEY, 20, 4))
    with pytest.raises(ArtifactError, match="ends at byte 10, 20 were expected"):
        source.finish()
