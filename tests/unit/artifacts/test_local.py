"""What is special about a store in a folder; the rest is in tests/contract/test_object_store.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from umim.artifacts.local import LocalStore
from umim.errors import NotFoundError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_an_object_is_the_file_of_its_key(store: LocalStore, tmp_path: Path) -> None:
    store.put("models/a/model.safetensors", b"one")
    assert (tmp_path / "store/models/a/model.safetensors").read_bytes() == b"one"


def test_what_a_killed_process_left_half_written_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", b"one")
    (tmp_path / "store/a/~half").write_bytes(b"on")
    assert [info.key for info in store.list("")] == ["a/b"]


def test_a_write_that_fails_leaves_the_object_and_nothing_else(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b", b"one")
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "none", "a/b")
    assert store.get("a/b") == b"one"
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["b"]


def test_a_folder_is_no_object(store: LocalStore) -> None:
    store.put("a/b", b"one")
    assert store.stat("a") is None
    store.delete("a")
    with pytest.raises(NotFoundError):
        store.get("a")
    with pytest.raises(NotFoundError):
        store.get("a/b/c")
    assert store.get("a/b") == b"one"


@pytest.mark.parametrize("if_absent", [False, True])
@pytest.mark.parametrize("key", ["a", "a/b/c"])
def test_a_key_that_would_make_a_file_a_folder_is_refused_with_its_name(
    store: LocalStore, key: str, if_absent: bool
) -> None:
    store.put("a/b", b"one")
    with pytest.raises(StoreError, match=f"object {key}:"):
        store.put(key, b"two", if_absent=if_absent)
    assert [info.key for info in store.list("")] == ["a/b"]


def test_an_empty_folder_does_not_stay(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/b/c", b"one")
    store.delete("a/b/c")
    assert list((tmp_path / "store").iterdir()) == []
    store.put("a", b"two")


def test_a_store_without_a_folder_is_empty(store: LocalStore) -> None:
    assert store.list("a/") == []
    assert store.stat("a") is None
    assert store.delete_prefix("a/") == 0
