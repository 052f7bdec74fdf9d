"""Parts of a model: equal parts give equal bytes, their digest covers the meaning of heads, and damage is found."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from umim import contract
from umim.api.base import ModelReference
from umim.api.globalmodel import SharedHead
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model, fetch_parts, publish_model
from umim.artifacts.parts import read_parts, write_parts
from umim.artifacts.writer import WrittenTensors, write_safetensors
from umim.errors import ArtifactError, NotFoundError

TENSORS = {"mim.mask": torch.zeros(3), "heads.tissue.weight": torch.ones(2, 4)}


def head(*classes: str, name: str = "tissue") -> SharedHead:
    return SharedHead(task_name=name, task="classification", classes=list(classes), sites=["hospital-a.x"])


def parts(path: Path, *heads: SharedHead) -> WrittenTensors:
    written = write_parts(TENSORS, heads, path)
    assert written is not None
    return written


def publish(store: MemoryStore, folder: Path, made: WrittenTensors | None) -> ModelReference:
    path = write_safetensors({"w": torch.zeros(2)}, folder / "encoder").path
    digest = publish_model(
        store,
        path,
        architecture="vit",
        image_size=64,
        strategy="fedavg",
        round_uid="u1",
        seed=0,
        software={},
        created=datetime(2026, 1, 2, tzinfo=UTC),
        parts=made,
        heads=[head("a", "b")] if made is not None else [],
    )
    return ModelReference(name="m", digest=digest, parts_digest=None if made is None else made.digest)


def test_tensors_and_meaning_come_back(tmp_path: Path) -> None:
    heads = [head("x", name="organ"), head("a", "b")]
    tensors, found = read_parts(parts(tmp_path / "parts", *reversed(heads)).path)
    assert found == heads
    assert {name: value.tolist() for name, value in tensors.items()} == {k: v.tolist() for k, v in TENSORS.items()}


def test_the_digest_covers_tensors_and_meaning(tmp_path: Path) -> None:
    first = parts(tmp_path / "1", head("a", "b"), head("x", name="organ")).digest
    assert parts(tmp_path / "2", head("x", name="organ"), head("a", "b")).digest == first
    assert parts(tmp_path / "3", head("b", "a"), head("x", name="organ")).digest != first


def test_a_model_without_parts_has_no_file(tmp_path: Path) -> None:
    assert write_parts({}, [], tmp_path / "parts") is None
    assert list(tmp_path.iterdir()) == []


def test_parts_are_published_beside_their_model_and_fetched_by_reference(tmp_path: Path) -> None:
    store = MemoryStore()
    model = publish(store, tmp_path, parts(tmp_path / "parts", head("a", "b")))
    manifest = read_model_manifest(store, model.digest)
    assert manifest.parts is not None
    assert manifest.parts.key == contract.parts_key(model.digest, model.parts_digest or "")
    assert [entry.task_name for entry in manifest.heads] == ["tissue"]
    assert fetch_parts(store, model, tmp_path / "out") is True
    assert (tmp_path / "out").read_bytes() == (tmp_path / "parts").read_bytes()


def test_one_encoder_may_have_several_parts(tmp_path: Path) -> None:
    store = MemoryStore()
    models = [
        publish(store, tmp_path, parts(tmp_path / "1", head("a", "b"))),
        publish(store, tmp_path, parts(tmp_path / "2", head("b", "a"))),
        publish(store, tmp_path, None),
    ]
    assert len({model.digest for model in models}) == 1
    found = []
    for model in models[:2]:
        assert fetch_parts(store, model, tmp_path / "out")
        found.append(read_parts(tmp_path / "out")[1][0].classes)
    assert found == [["a", "b"], ["b", "a"]]
    assert fetch_parts(store, models[2], tmp_path / "none") is False
    assert not (tmp_path / "none").exists()
    fetch_model(store, models[2].digest, tmp_path / "model")


def test_damaged_parts_leave_no_file(tmp_path: Path) -> None:
    store = MemoryStore()
    model = publish(store, tmp_path, parts(tmp_path / "parts"))
    store.put(contract.parts_key(model.digest, model.parts_digest or ""), b"damaged")
    with pytest.raises(ArtifactError, match="the stored object is damaged"):
        fetch_parts(store, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_parts_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        fetch_parts(MemoryStore(), ModelReference(name="m", digest="a" * 64, parts_digest="b" * 64), tmp_path / "out")


def test_a_file_that_does_not_describe_its_heads_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(TENSORS, tmp_path / "parts").path
    with pytest.raises(ArtifactError, match="does not describe its heads"):
        read_parts(path)
