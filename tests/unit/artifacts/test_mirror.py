"""Checkpoints of the server's Jobs survive the loss of their folder, and a failing store stops no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from umim.artifacts.memory import MemoryStore
from umim.artifacts.mirror import INTERVAL_SECONDS, Mirror
from umim.errors import StoreError

PREFIX = "rounds/u1/init/checkpoints/"


class Watch:
    """A clock that is set by hand."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


class Unwilling(MemoryStore):
    """A store that does not answer uploads while it is told so."""

    failing = True

    def upload(self, path: Path, key: str) -> str:
        if self.failing:
            raise StoreError("the store does not answer")
        return super().upload(path, key)


def checkpoint(folder: Path, epoch: int) -> None:
    folder.mkdir(exist_ok=True)
    for suffix in ("json", "safetensors"):
        (folder / f"epoch-{epoch:04d}.{suffix}").write_text(f"{epoch} {suffix}")


def stored(store: MemoryStore) -> list[str]:
    return [info.key.removeprefix(PREFIX) for info in store.list(PREFIX)]


def names(epoch: int) -> list[str]:
    return [f"epoch-{epoch:04d}.json", f"epoch-{epoch:04d}.safetensors"]


def mirror(store: MemoryStore, watch: Watch | None = None) -> Mirror:
    return Mirror(store, PREFIX, "epoch-*", watch or Watch())


def test_what_was_kept_comes_back_into_an_empty_folder(tmp_path: Path) -> None:
    store = MemoryStore()
    checkpoint(tmp_path / "first", 1)
    (tmp_path / "first" / "parent.safetensors").write_text("no checkpoint")
    mirror(store).save(tmp_path / "first")
    assert stored(store) == names(1)
    mirror(store).restore(tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == names(1)
    assert (tmp_path / "second" / "epoch-0001.json").read_text() == "1 json"


def test_old_checkpoints_are_removed_also_those_of_an_earlier_pod(tmp_path: Path) -> None:
    store, watch = MemoryStore(), Watch()
    checkpoint(tmp_path, 1)
    mirror(store, watch).save(tmp_path)
    second = mirror(store, watch)
    second.restore(tmp_path)
    for name in names(1):
        (tmp_path / name).unlink()
    checkpoint(tmp_path, 2)
    second.save(tmp_path)
    assert stored(store) == names(2)


def test_uploads_are_a_while_apart(tmp_path: Path) -> None:
    store, watch = MemoryStore(), Watch()
    kept = mirror(store, watch)
    checkpoint(tmp_path, 1)
    kept.save(tmp_path)
    checkpoint(tmp_path, 2)
    watch.time = INTERVAL_SECONDS - 1
    kept.save(tmp_path)
    assert stored(store) == names(1)
    watch.time = INTERVAL_SECONDS
    kept.save(tmp_path)
    assert stored(store) == names(1) + names(2)


def test_a_store_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, watch = Unwilling(), Watch()
    kept = mirror(store, watch)
    checkpoint(tmp_path, 1)
    kept.save(tmp_path)
    assert "the store does not answer" in caplog.text
    store.failing, watch.time = False, INTERVAL_SECONDS
    kept.save(tmp_path)
    assert stored(store) == names(1)


def test_foreign_names_below_the_prefix_are_not_written(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("epoch-0001.json", "other.json", "deeper/epoch-0001.json"):
        store.put(PREFIX + name, b"{}")
    mirror(store).restore(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["epoch-0001.json"]


def test_clear_removes_all_below_the_prefix(tmp_path: Path) -> None:
    store = MemoryStore()
    store.put("rounds/u1/init/result.json", b"{}")
    checkpoint(tmp_path, 1)
    kept = mirror(store)
    kept.save(tmp_path)
    kept.clear()
    assert [info.key for info in store.list("")] == ["rounds/u1/init/result.json"]
