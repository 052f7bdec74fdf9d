"""A pickle that would make a folder is put wherever a file comes from outside: it is refused by name and never run."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation
from tests.unit.aggregation.files import spec
from tests.unit.data.files import location, pixels, write_png
from tests.unit.training.parts import around, dataset, init_config, parent, site_config
from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.jobs import UpdateReference
from umim.artifacts.manifests import manifest_bytes, parse_manifest, read_job_result, read_update_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model, fetch_parts
from umim.artifacts.parts import read_parts, write_parts
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.data.load import load_dataset
from umim.entrypoints.pretrain import initialise_once
from umim.errors import ArtifactError, DataError, UmimError
from umim.evaluation.pack import load_pack
from umim.models.state import ModelState
from umim.training.runtime import Runtime, start_runtime
from umim.training.site import train_at_site, work_folder
from umim.training.updates import Residuals

SITE = "hospital-a.x"
MODEL = {"w": torch.zeros(2, 3)}


class Bomb:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self._path,)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return start_runtime(threads=1)


@pytest.fixture(params=["pickle", "torch"])
def payload(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """A plain pickle, or torch's own format around one. At the end of the test nothing of it has run."""
    mark = tmp_path / "the pickle was run"
    if request.param == "pickle":
        yield pickle.dumps(Bomb(mark))
    else:
        buffer = io.BytesIO()
        torch.save({"w": Bomb(mark)}, buffer)
        yield buffer.getvalue()
    assert not mark.exists()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(MemoryStore(), tmp_path / "federation")
    made.start(MODEL)
    return made


def commit_update(federation: Federation, payload: bytes) -> None:
    """Commit the payload as an update, with a manifest that is right about its digest and size."""
    federation.commit(SITE, {"w": torch.ones(2, 3)})
    manifest = read_update_manifest(federation.store, UID, SITE, 1)
    assert manifest is not None
    file = manifest.file.model_copy(update={"digest": digest_of(payload), "size_bytes": len(payload)})
    manifest = manifest.model_copy(update={"file": file})
    federation.store.put(file.key, payload)
    federation.store.put(contract.update_manifest_key(UID, SITE, 1), manifest_bytes(manifest))
    federation.updates = [UpdateReference(site=SITE, attempt=1, digest=file.digest)]


def publish(federation: Federation, payload: bytes) -> str:
    """Publish the payload as a model, with a manifest that is right about its digest; return the digest."""
    digest = digest_of(payload)
    manifest = ModelManifest.model_validate_json(
        federation.store.get(contract.model_manifest_key(federation.parent.digest))
    )
    key = contract.model_key(digest)
    file = manifest.file.model_copy(update={"digest": digest, "key": key, "size_bytes": len(payload)})
    federation.store.put(key, payload)
    federation.store.put(
        contract.model_manifest_key(digest), manifest_bytes(manifest.model_copy(update={"file": file}))
    )
    return digest


def test_the_payload_runs_where_somebody_unpickles_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "run")))
    assert (tmp_path / "run").is_dir()


def test_an_update(federation: Federation, payload: bytes) -> None:
    commit_update(federation, payload)
    result = federation.aggregate()
    assert result.model_digest is None
    (exclusion,) = result.exclusions
    assert (exclusion.site, exclusion.reason) == (SITE, "TensorsMismatch")
    assert "no safetensors file" in exclusion.message


def test_a_parent_model(federation: Federation, payload: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model.safetensors is no readable safetensors file"):
        fetch_model(federation.store, publish(federation, payload), tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_parent_model_in_the_aggregation(federation: Federation, payload: bytes) -> None:
    federation.commit(SITE, MODEL)
    federation.parent = federation.parent.model_copy(update={"digest": publish(federation, payload)})
    with pytest.raises(ArtifactError, match="is no readable safetensors file"):
        federation.aggregate()


def test_the_parts_of_a_model(federation: Federation, payload: bytes, tmp_path: Path) -> None:
    model = federation.parent.model_copy(update={"parts_digest": digest_of(payload)})
    federation.store.put(contract.parts_key(model.digest, digest_of(payload)), payload)
    assert fetch_parts(federation.store, model, tmp_path / "parts.safetensors")
    with pytest.raises(ArtifactError, match=r"parts.safetensors is no readable safetensors file"):
        read_parts(tmp_path / "parts.safetensors")


def test_a_head(federation: Federation, payload: bytes) -> None:
    head = federation.head("evil", {"weight": torch.ones(2, 2)})
    federation.commit(SITE, {"w": torch.ones(2, 3)}, head=head)
    manifest = read_update_manifest(federation.store, UID, SITE, 1)
    assert manifest is not None
    assert manifest.head is not None
    file = manifest.head.file.model_copy(update={"digest": digest_of(payload)})
    evil = manifest.model_copy(update={"head": manifest.head.model_copy(update={"file": file})})
    federation.store.put(file.key, payload)
    federation.store.put(contract.update_manifest_key(UID, SITE, 1), manifest_bytes(evil))
    federation.updates = [federation.updates[0].model_copy(update={"head_digest": file.digest})]
    result = federation.aggregate()
    assert result.model_digest is not None, "the update itself is good"
    assert result.heads == []
    (exclusion,) = result.head_exclusions
    assert "is no readable safetensors file" in exclusion.message


def test_the_state_of_the_servers_optimiser(federation: Federation, payload: bytes) -> None:
    slots = {f"fedadam.{name}": digest_of(payload) for name in ("first_moment", "second_moment")}
    parts = write_parts(ModelState({}, optimiser=slots).parts(), [], federation.folder / "parts")
    federation.start(MODEL, parts)
    federation.store.put(contract.optimiser_key(federation.parent.digest, digest_of(payload)), payload)
    federation.commit(SITE, {"w": torch.ones(2, 3)})
    with pytest.raises(ArtifactError, match="no safetensors file"):
        federation.aggregate(aggregation=spec("fedadam"))


def test_a_checkpoint(payload: bytes, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    config = site_config(tmp_path, epochs=1)
    train_at_site(config, ModelState(parent()), dataset(), around(runtime))
    state, tensors = (work_folder(config) / f"epoch-0001.{ending}" for ending in ("json", "safetensors"))
    text = state.read_text().replace(digest_of(tensors.read_bytes()), digest_of(payload))
    assert digest_of(payload) in text
    state.write_text(text)
    tensors.write_bytes(payload)
    with caplog.at_level(logging.WARNING):
        train_at_site(config, ModelState(parent()), dataset(), around(runtime))
    assert "epoch-0001.safetensors is damaged and not used" in caplog.text
    assert "is no readable safetensors file" in caplog.text
    assert tensors.read_bytes() != payload


def test_the_state_of_a_checkpoint(
    payload: bytes, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    config = site_config(tmp_path, epochs=1)
    work_folder(config).mkdir(parents=True)
    (work_folder(config) / "epoch-0001.json").write_bytes(payload)
    (work_folder(config) / "epoch-0001.safetensors").write_bytes(payload)
    train_at_site(config, ModelState(parent()), dataset(), around(runtime))
    assert "epoch-0001.safetensors is damaged and not used" in caplog.text


def test_what_the_last_encoding_lost(payload: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{'a' * 64}.safetensors").write_bytes(payload)
    with Residuals(tmp_path).opened("a" * 64, {}) as found:
        assert found is None
    assert "is no readable safetensors file" in caplog.text


def test_a_model_on_the_local_disk(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(payload)
    with pytest.raises(ArtifactError, match=r"model.safetensors is no readable safetensors file"):
        read_safetensors(tmp_path / "model.safetensors")


@pytest.mark.parametrize("model", [UpdateManifest, ModelManifest, JobResult])
def test_a_manifest(payload: bytes, model: type[UpdateManifest]) -> None:
    with pytest.raises(ArtifactError, match=r"rounds/manifest.json: .*Invalid JSON"):
        parse_manifest(model, payload, "rounds/manifest.json")


def test_the_result_of_a_job(payload: bytes) -> None:
    store = MemoryStore()
    store.put(contract.result_key(UID, "aggregate"), payload)
    with pytest.raises(ArtifactError, match="Invalid JSON"):
        read_job_result(store, UID, "aggregate")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.npz", "npz"),
        ("a.png", "imagefolder"),
        ("a.tif", "imagefolder"),
        ("a.dcm", "dicom"),
        ("a.nii", "nifti"),
        ("a.nii.gz", "nifti"),
    ],
)
def test_an_image_of_a_hospital(payload: bytes, tmp_path: Path, name: str, format: Any) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(payload)
    with pytest.raises(DataError, match=f"{name}.*(cannot be read|has no array)"):
        load_dataset(location(tmp_path / "data", format, "none"), 16)


def test_a_mask(payload: bytes, tmp_path: Path) -> None:
    write_png(tmp_path / "i.png", pixels(0))
    (tmp_path / "m.png").write_bytes(payload)
    (tmp_path / "l.csv").write_text("file,mask\ni.png,m.png\n")
    with pytest.raises(DataError, match=r"m.png cannot be read as a mask"):
        load_dataset(location(tmp_path, "imagefolder", "segmentation", "l.csv"), 16)


def test_a_labels_file(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(payload)
    with pytest.raises(DataError, match=r"l.csv"):
        load_dataset(location(tmp_path, "imagefolder", "classification", "l.csv"), 16)


def objects(path: Path, name: str, bomb: Bomb) -> None:
    """Write an archive whose array holds objects, as numpy pickles them."""
    array = np.empty(4, dtype=object)
    array[:] = [bomb] * 4
    images = pixels(0, (4, 8, 8))
    arrays: dict[str, Any] = {"train_images": images, "train_labels": np.arange(4), "test_images": images}
    np.savez(path, **{**arrays, "test_labels": np.arange(4), name: array})


def members(path: Path, payload: bytes) -> None:
    """Write an archive whose members are no arrays but pickles."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_images", "train_images.npy", "train_labels.npy", "images.npy"):
            archive.writestr(name, payload)


@pytest.mark.parametrize("name", ["train_images", "train_labels", "train_groups"])
@pytest.mark.parametrize("reader", [lambda path: load_dataset(location(path, "npz"), 16), load_pack])
def test_objects_in_an_archive(tmp_path: Path, name: str, reader: Callable[[Path], Any]) -> None:
    path, mark = tmp_path / "data.npz", tmp_path / "the pickle was run"
    objects(path, name, Bomb(mark))
    assert not mark.exists()
    with pytest.raises(DataError, match=r"data.npz"):
        reader(path)
    assert not mark.exists()


@pytest.mark.parametrize("reader", [lambda path: load_dataset(location(path, "npz"), 16), load_pack])
def test_members_of_an_archive_that_are_no_arrays(
    payload: bytes, tmp_path: Path, reader: Callable[[Path], Any]
) -> None:
    members(tmp_path / "data.npz", payload)
    with pytest.raises(DataError, match=r"data.npz"):
        reader(tmp_path / "data.npz")


def test_the_images_of_the_server(payload: bytes, tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "pool.npz").write_bytes(payload)
    config = init_config(tmp_path / "work").model_copy(
        update={"init": "mim", "data": location(tmp_path / "pool.npz", "npz", "none")}
    )
    with pytest.raises(UmimError, match=r"pool.npz (cannot be read as an npz archive|has no array)"):
        initialise_once(MemoryStore(), config, around(runtime))


def test_a_good_file_in_the_same_place_is_read(federation: Federation, tmp_path: Path) -> None:
    """Else a test above could pass for want of a file."""
    good = write_safetensors({"w": torch.ones(2, 3)}, tmp_path / "good").path.read_bytes()
    commit_update(federation, good)
    assert federation.aggregate().model_digest is not None
    assert fetch_model(federation.store, publish(federation, good), tmp_path / "model").file.digest == digest_of(good)
