"""A pulled model is verified, complete or absent, and not fetched twice."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.cli.samples import model_object
from umim import contract
from umim.api.artifacts import ModelManifest, TensorsFile
from umim.api.globalmodel import GlobalModelSpec
from umim.artifacts.manifests import manifest_bytes, parse_manifest
from umim.artifacts.memory import MemoryStore
from umim.cli.pull import pull_model, pull_parts
from umim.errors import ArtifactError, NotFoundError

CONTENT = b"tensors of a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store() -> MemoryStore:
    manifest = ModelManifest(
        architecture="vit_tiny_patch16_224",
        image_size=64,
        strategy="fedavg",
        file=TensorsFile(key=contract.model_key(DIGEST), digest=DIGEST, size_bytes=len(CONTENT), tensors={}),
        round_uid="u-1",
        seed=0,
        software={},
        created=datetime(2026, 11, 24, tzinfo=UTC),
    )
    store = MemoryStore()
    store.put(contract.model_key(DIGEST), CONTENT)
    store.put(contract.model_manifest_key(DIGEST), manifest_bytes(manifest))
    return store


def test_model_and_manifest_are_written(store: MemoryStore, tmp_path: Path) -> None:
    manifest, fetched = pull_model(store, DIGEST, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert fetched
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert parse_manifest(ModelManifest, (folder / "manifest.json").read_bytes(), "manifest.json") == manifest


def test_a_model_that_is_there_is_verified_and_kept(store: MemoryStore, tmp_path: Path) -> None:
    pull_model(store, DIGEST, tmp_path)
    store.delete(contract.model_key(DIGEST))
    assert pull_model(store, DIGEST, tmp_path)[1] is False


def test_a_local_file_with_other_content_is_replaced(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"half a mod")
    assert pull_model(store, DIGEST, tmp_path)[1] is True
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_damaged_bytes_leave_nothing_behind(store: MemoryStore, tmp_path: Path) -> None:
    store.put(contract.model_key(DIGEST), b"other bytes")
    with pytest.raises(ArtifactError, match="the stored object is damaged"):
        pull_model(store, DIGEST, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_store_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        pull_model(MemoryStore(), DIGEST, tmp_path)


PARTS = b"decoder and heads"
PARTS_DIGEST = hashlib.sha256(PARTS).hexdigest()


def spec(parts_digest: str | None) -> GlobalModelSpec:
    body = {**model_object("m", DIGEST)["spec"], "partsDigest": parts_digest}
    return GlobalModelSpec.model_validate(body)


def test_parts_are_written_to_the_file_that_was_asked_for(store: MemoryStore, tmp_path: Path) -> None:
    store.put(contract.parts_key(DIGEST, PARTS_DIGEST), PARTS)
    pull_parts(store, "m", spec(PARTS_DIGEST), tmp_path / "new" / "parts.safetensors")
    assert (tmp_path / "new" / "parts.safetensors").read_bytes() == PARTS


def test_parts_that_a_model_lacks_are_an_error(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="GlobalModel m has no parts"):
        pull_parts(store, "m", spec(None), tmp_path / "parts.safetensors")


def test_damaged_parts_leave_nothing_behind(store: MemoryStore, tmp_path: Path) -> None:
    store.put(contract.parts_key(DIGEST, PARTS_DIGEST), b"other bytes")
    with pytest.raises(ArtifactError, match="the stored object is damaged"):
        pull_parts(store, "m", spec(PARTS_DIGEST), tmp_path / "parts.safetensors")
    assert list(tmp_path.iterdir()) == []
