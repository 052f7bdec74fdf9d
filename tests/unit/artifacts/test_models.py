"""Publishing and fetching: tensors first, manifest last, nothing unverified on the way in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.base import ModelReference
from umim.api.globalmodel import Contributor
from umim.artifacts import models
from umim.artifacts.manifests import (
    MAX_MANIFEST_BYTES,
    ManifestError,
    parse_manifest,
    read_job_result,
    read_model_manifest,
    read_update_manifest,
    software_versions,
    write_job_result,
)
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model, fetch_update, publish_model, publish_update
from umim.artifacts.store import ObjectInfo
from umim.artifacts.writer import write_safetensors
from umim.errors import ArtifactError, NotFoundError

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = "u1"
SITE = "hospital-a.radiology"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    return write_safetensors({"w": torch.arange(4.0), "n": torch.tensor(3)}, tmp_path / "tensors").path


def publish(store: MemoryStore, path: Path, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "architecture": "vit",
        "image_size": 64,
        "strategy": "fedavg",
        "round_uid": UID,
        "seed": 0,
        "software": {"umim": "1"},
        "created": CREATED,
    }
    return publish_model(store, path, **(fields | changes))


def commit(store: MemoryStore, path: Path, **changes: Any) -> UpdateManifest:
    fields: dict[str, Any] = {
        "round_uid": UID,
        "site": SITE,
        "attempt": 1,
        "parent_digest": "a" * 64,
        "architecture": "vit",
        "image_size": 64,
        "samples": 10,
        "metrics": {"loss_after": 0.5},
        "seed": 0,
        "software": {},
        "created": CREATED,
    }
    return publish_update(store, path, **(fields | changes))


class TensorsFirst(MemoryStore):
    """Fails the test when a manifest is there before its tensors."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if key.endswith("manifest.json"):
            assert self.list(key.removesuffix("manifest.json")), "the manifest came first"
            assert if_absent, "a manifest must never be replaced"
        return super().put(key, data, if_absent=if_absent)


def test_a_published_model_comes_back(store: MemoryStore, tensors: Path, tmp_path: Path) -> None:
    parent = ModelReference(name="base", digest="b" * 64)
    contributors = [Contributor(site=site, update_digest="c" * 64, samples=1) for site in ("b.x", "a.x")]
    digest = publish(store, tensors, parent=parent, contributors=contributors, metrics={"loss": 0.1})
    manifest = fetch_model(store, digest, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == tensors.read_bytes()
    assert [contributor.site for contributor in manifest.contributors] == ["a.x", "b.x"]
    assert (manifest.parent, manifest.metrics, manifest.created) == (parent, {"loss": 0.1}, CREATED)
    assert manifest.file.tensors["w"].shape == [4]
    assert [info.key for info in store.list("")] == [contract.model_manifest_key(digest), contract.model_key(digest)]


def test_publishing_again_keeps_the_model_and_its_first_manifest(store: MemoryStore, tensors: Path) -> None:
    later = datetime(2027, 1, 1, tzinfo=UTC)
    first, second = publish(store, tensors), publish(store, tensors, created=later, round_uid="u2")
    assert first == second
    assert read_model_manifest(store, first).created == CREATED


def test_tensors_are_there_before_their_manifest(tensors: Path) -> None:
    publish(TensorsFirst(), tensors)
    commit(TensorsFirst(), tensors)


@pytest.mark.parametrize("put", [publish, commit])
def test_a_file_whose_digest_is_known_is_not_hashed_again(
    put: Callable[..., Any], store: MemoryStore, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "sha256_of", lambda _: pytest.fail("the file is hashed again"))
    put(store, tensors, digest=hashlib.sha256(tensors.read_bytes()).hexdigest())
    assert any(info.key.endswith(contract.MANIFEST_FILE) for info in store.list(""))


@pytest.mark.parametrize("put", [publish, commit])
def test_a_file_that_is_not_what_its_writer_said_gets_no_manifest(
    put: Callable[..., Any], store: MemoryStore, tensors: Path
) -> None:
    digest = hashlib.sha256(tensors.read_bytes()).hexdigest()
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(damaged)
    with pytest.raises(ArtifactError, match=f"is not what was written: its sha256 was {digest}, what was uploaded has"):
        put(store, tensors, digest=digest)
    assert not any(info.key.endswith(contract.MANIFEST_FILE) for info in store.list(""))


def test_a_model_that_is_not_published_is_not_found(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"model {'d' * 64} is not in the store"):
        fetch_model(store, "d" * 64, tmp_path / "out")


def test_changed_bytes_are_refused_and_leave_no_file(store: MemoryStore, tensors: Path, tmp_path: Path) -> None:
    digest = publish(store, tensors)
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    store.put(contract.model_key(digest), bytes(damaged))
    with pytest.raises(ArtifactError, match=rf"has sha256 [0-9a-f]+, its manifest says {digest}"):
        fetch_model(store, digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def edit(store: MemoryStore, key: str, **changes: Any) -> None:
    document = json.loads(store.get(key))
    for path, value in changes.items():
        target = document
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    store.put(key, json.dumps(document).encode())


def test_a_manifest_of_another_model_is_refused(store: MemoryStore, tensors: Path, tmp_path: Path) -> None:
    digest = publish(store, tensors)
    edit(store, contract.model_manifest_key(digest), file__digest="e" * 64)
    with pytest.raises(ArtifactError, match=r"file\.digest and file\.key must be"):
        fetch_model(store, digest, tmp_path / "out")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"w": {"shape": [4], "dtype": "F32"}}, "superfluous tensor n"),
        ({"w": {"shape": [5], "dtype": "F32"}, "n": {"shape": [], "dtype": "I64"}}, r"tensor w is F32\[4\].*F32\[5\]"),
        ({"w": {"shape": [4], "dtype": "F16"}, "n": {"shape": [], "dtype": "I64"}}, r"tensor w is F32\[4\].*F16\[4\]"),
    ],
)
def test_a_manifest_that_describes_other_tensors_is_refused(
    store: MemoryStore, tensors: Path, tmp_path: Path, found: dict[str, Any], message: str
) -> None:
    digest = publish(store, tensors)
    edit(store, contract.model_manifest_key(digest), file__tensors=found)
    with pytest.raises(ArtifactError, match=message):
        fetch_model(store, digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_tensors_file_is_not_published(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="bad is no readable safetensors file"):
        publish(store, tmp_path / "bad")
    assert store.list("") == []


def test_a_committed_update_comes_back(store: MemoryStore, tensors: Path, tmp_path: Path) -> None:
    assert read_update_manifest(store, UID, SITE, 1) is None
    manifest = commit(store, tensors)
    assert read_update_manifest(store, UID, SITE, 1) == manifest
    assert fetch_update(store, UID, SITE, 1, tmp_path / "out") == manifest
    assert (tmp_path / "out").read_bytes() == tensors.read_bytes()


def test_committing_the_same_update_again_keeps_the_first_manifest(store: MemoryStore, tensors: Path) -> None:
    first = commit(store, tensors)
    assert commit(store, tensors, created=datetime(2027, 1, 1, tzinfo=UTC)) == first


def test_another_update_for_a_committed_attempt_is_refused_and_changes_nothing(
    store: MemoryStore, tensors: Path, tmp_path: Path
) -> None:
    commit(store, tensors)
    other = write_safetensors({"w": torch.zeros(4)}, tmp_path / "other").path
    with pytest.raises(ArtifactError, match=f"site {SITE} has committed another update in attempt 1"):
        commit(store, other)
    assert store.get(contract.update_key(UID, SITE, 1)) == tensors.read_bytes()


def test_an_update_that_is_not_committed_is_not_found(store: MemoryStore, tensors: Path, tmp_path: Path) -> None:
    store.upload(tensors, contract.update_key(UID, SITE, 1))
    with pytest.raises(NotFoundError, match="no update in attempt 1"):
        fetch_update(store, UID, SITE, 1, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"samples": 0}, "samples"),
        ({"parentDigest": "x"}, "parentDigest"),
        ({"metrics": {"loss": "high"}}, "metrics.loss"),
        ({"metrics": {"loss": float("nan")}}, "metrics.loss"),
        ({"metrics": {"loss": float("-inf")}}, "metrics.loss"),
        ({"file__tensors": {"w": {"shape": [-1], "dtype": "F32"}}}, "file.tensors.w.shape.0"),
        ({"patients": ["Jane"]}, "patients"),
    ],
)
def test_an_unreadable_manifest_names_the_field(
    store: MemoryStore, tensors: Path, changes: dict[str, Any], field: str
) -> None:
    commit(store, tensors)
    key = contract.update_manifest_key(UID, SITE, 1)
    edit(store, key, **changes)
    with pytest.raises(ManifestError, match=f"{key}: {field}") as caught:
        read_update_manifest(store, UID, SITE, 1)
    assert caught.value.field == field


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="some/key: document: "):
        parse_manifest(ModelManifest, data, "some/key")


class Growing(MemoryStore):
    """A store in which a site replaces an object after somebody has looked at its size."""

    def stat(self, key: str) -> ObjectInfo | None:
        found = super().stat(key)
        return None if found is None else ObjectInfo(found.key, 10, found.etag)

    def get(self, key: str) -> bytes:
        raise AssertionError(f"{key} is read as a whole, however large it is")

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return MemoryStore.get(self, key)[offset : offset + length]


@pytest.mark.parametrize("kind", [MemoryStore, Growing])
def test_of_a_huge_manifest_no_more_is_read_than_is_allowed(kind: type[MemoryStore]) -> None:
    store = kind()
    store.put(contract.update_manifest_key(UID, SITE, 1), bytes(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestError, match=f"at most {MAX_MANIFEST_BYTES} bytes are allowed, it has more"):
        read_update_manifest(store, UID, SITE, 1)


def test_the_first_result_of_a_job_stays(store: MemoryStore) -> None:
    assert read_job_result(store, UID, "init") is None
    first = JobResult(round_uid=UID, model_digest="a" * 64)
    assert write_job_result(store, "init", first) is True
    assert write_job_result(store, "init", JobResult(round_uid=UID, message="late")) is False
    assert read_job_result(store, UID, "init") == first


def test_software_versions_name_what_is_installed() -> None:
    versions = software_versions(("torch", "no-such-distribution"))
    assert list(versions) == ["python", "torch"]
