"""Bringing images to the embedded cluster: what containerd has collected meanwhile is brought again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hack.cluster import images as containerd
from hack.cluster.progress import ClusterError
from hack.images import deliver


def _loaded(monkeypatch: pytest.MonkeyPatch, folder: Path, failures: int) -> list[frozenset[str]]:
    """Load one image while the import fails so often. Returns the layers left out of each archive."""
    left_out: list[frozenset[str]] = []
    answers = iter([True] * failures + [False] * 2)

    def write(file: Path, _root: Path, _wanted: Any, without: frozenset[str]) -> int:
        left_out.append(without)
        file.write_text("archive")
        return 0

    def load(*_: Any) -> None:
        if next(answers):
            raise ClusterError("parent snapshot does not exist")

    image = SimpleNamespace(reference="localhost/umim/trainer:dev", digest="sha256:1")
    monkeypatch.setattr(deliver, "locked", lambda _: nullcontext())
    monkeypatch.setattr(deliver, "stored_images", lambda *_: [image])
    monkeypatch.setattr(deliver, "write_archive", write)
    monkeypatch.setattr(containerd, "present", lambda _: {})
    monkeypatch.setattr(containerd, "ctr", lambda *_: "sha256:a sha256:b")
    monkeypatch.setattr(containerd, "load", load)
    socket = folder / "socket"
    socket.touch()
    workspace: Any = SimpleNamespace(storage=folder, home=folder)
    cluster: Any = SimpleNamespace(containerd_socket=socket)
    deliver.load(workspace, [], "dev", "cpu", cluster)
    assert not (folder / "load.tar").exists()
    return left_out


def test_only_what_the_cluster_lacks_is_brought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _loaded(monkeypatch, tmp_path, 0) == [{"sha256:a", "sha256:b"}]


def test_after_an_import_that_failed_all_layers_are_brought(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _loaded(monkeypatch, tmp_path, 1) == [{"sha256:a", "sha256:b"}, frozenset()]


def test_an_import_that_fails_twice_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="snapshot"):
        _loaded(monkeypatch, tmp_path, 2)
