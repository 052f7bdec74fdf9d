"""What every object store must do."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from umim.artifacts.store import ObjectStore
from umim.errors import NotFoundError

MALFORMED = ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a b", "a\n", "ä", "a?b", "a" * 1025]


@pytest.fixture
def base() -> str:
    """A prefix of this test alone."""
    return f"rounds/{uuid.uuid4().hex}/"


def test_get_returns_what_put_wrote(store: ObjectStore, base: str) -> None:
    assert store.put(base + "a", b"one") is True
    assert store.get(base + "a") == b"one"


def test_put_replaces(store: ObjectStore, base: str) -> None:
    store.put(base + "a", b"one")
    assert store.put(base + "a", b"two") is True
    assert store.get(base + "a") == b"two"


def test_an_empty_object_is_an_object(store: ObjectStore, base: str) -> None:
    store.put(base + "a", b"")
    assert store.get(base + "a") == b""
    info = store.stat(base + "a")
    assert info is not None
    assert info.size_bytes == 0


def test_put_if_absent_keeps_what_is_there(store: ObjectStore, base: str) -> None:
    assert store.put(base + "a", b"one", if_absent=True) is True
    assert store.put(base + "a", b"two", if_absent=True) is False
    assert store.get(base + "a") == b"one"


def test_of_many_conditional_writers_exactly_one_wins(store: ObjectStore, base: str) -> None:
    contents = [f"writer {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda data: store.put(base + "a", data, if_absent=True), contents))
    assert won.count(True) == 1
    assert store.get(base + "a") == contents[won.index(True)]


def test_a_missing_object_is_not_found(store: ObjectStore, base: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=base):
        store.get(base + "none")
    with pytest.raises(NotFoundError, match=base):
        store.read_range(base + "none", 0, 1)
    with pytest.raises(NotFoundError, match=base):
        store.download(base + "none", tmp_path / "none")
    assert store.stat(base + "none") is None


def test_a_failed_download_leaves_the_older_file_and_nothing_else(
    store: ObjectStore, base: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"older")
    with pytest.raises(NotFoundError):
        store.download(base + "none", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"older"


def test_stat_tells_size_and_changes_with_the_content(store: ObjectStore, base: str) -> None:
    store.put(base + "a", b"one")
    first = store.stat(base + "a")
    store.put(base + "a", b"two")
    second = store.stat(base + "a")
    assert first is not None
    assert second is not None
    assert (first.key, first.size_bytes) == (base + "a", 3)
    assert first.etag != second.etag


def test_list_is_sorted_and_keeps_to_the_prefix(store: ObjectStore, base: str) -> None:
    for name in ("b", "a/2", "a/10", "ab"):
        store.put(base + name, name.encode())
    assert [info.key for info in store.list(base)] == [base + name for name in ("a/10", "a/2", "ab", "b")]
    assert [(info.key, info.size_bytes) for info in store.list(base + "a/")] == [(base + "a/10", 4), (base + "a/2", 3)]
    assert store.list(base + "c") == []


def test_list_goes_past_one_page_of_the_protocol(store: ObjectStore, base: str) -> None:
    keys = [f"{base}{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert [info.key for info in store.list(base)] == keys
    assert store.delete_prefix(base) == 1005


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(0, 4, b"0123"), (3, 2, b"34"), (8, 9, b"89"), (10, 1, b""), (99, 1, b"")]
)
def test_read_range_returns_the_bytes_that_are_there(
    store: ObjectStore, base: str, offset: int, length: int, expected: bytes
) -> None:
    store.put(base + "a", b"0123456789")
    assert store.read_range(base + "a", offset, length) == expected


def test_read_range_of_an_empty_object_is_empty(store: ObjectStore, base: str) -> None:
    """A site may commit an empty manifest: that is a damaged one, and no store that fails."""
    store.put(base + "a", b"")
    assert store.read_range(base + "a", 0, 10) == b""


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, -1)])
def test_read_range_refuses_an_impossible_range(store: ObjectStore, base: str, offset: int, length: int) -> None:
    store.put(base + "a", b"0123456789")
    with pytest.raises(ValueError, match="offset"):
        store.read_range(base + "a", offset, length)


@pytest.mark.parametrize("size", [0, 1, (16 << 20) + 1, 40 << 20])
def test_a_file_comes_back_with_its_digest(store: ObjectStore, base: str, tmp_path: Path, size: int) -> None:
    data = hashlib.shake_128(b"umim").digest(size)
    (tmp_path / "in").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert store.upload(tmp_path / "in", base + "a") == digest
    assert store.download(base + "a", tmp_path / "deep" / "out") == digest
    assert (tmp_path / "deep" / "out").read_bytes() == data


def test_delete_removes_and_is_harmless_twice(store: ObjectStore, base: str) -> None:
    store.put(base + "a", b"one")
    store.delete(base + "a")
    store.delete(base + "a")
    assert store.stat(base + "a") is None


def test_delete_prefix_leaves_the_neighbours(store: ObjectStore, base: str) -> None:
    for name in ("a/1", "a/2", "ab"):
        store.put(base + name, b"")
    assert store.delete_prefix(base + "a/") == 2
    assert [info.key for info in store.list(base)] == [base + "ab"]
    assert store.delete_prefix(base + "a/") == 0


def test_delete_prefix_refuses_the_whole_bucket(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="prefix"):
        store.delete_prefix("")


@pytest.mark.parametrize("key", MALFORMED)
def test_malformed_keys_are_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.put(key, b"", if_absent=True),
        lambda: store.stat(key),
        lambda: store.read_range(key, 0, 1),
        lambda: store.download(key, tmp_path / "out"),
        lambda: store.upload(tmp_path / "file", key),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="malformed"):
            call()
