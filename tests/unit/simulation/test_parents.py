"""Models from folders as the start of a simulation."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.simulation.conftest import POOL, Machine, a_round
from umim.artifacts.local import LocalStore
from umim.errors import ArtifactError, ConfigError
from umim.simulation.parents import take_parent


@pytest.fixture
def folder(machine: Machine) -> Path:
    """A model with a MIM decoder, as it lies in the store of a simulation."""
    model = {"architecture": "test_vit", "imageSize": 32, "parent": {"init": "mim"}}
    campaign = a_round("a", model=model, pretraining={"batchSize": 8}, serverDataset=POOL)
    return (machine.root / "out" / machine.both(campaign).model_key).parent


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_a_model_with_its_parts_comes_into_the_store_twice_without_a_change(folder: Path, store: LocalStore) -> None:
    found = take_parent(store, "start", folder)
    kept = store.list("")
    assert (found.name, found.digest) == ("start", folder.name)
    assert [info.key for info in kept] == [
        f"models/sha256/{found.digest}/manifest.json",
        f"models/sha256/{found.digest}/model.safetensors",
        f"models/sha256/{found.digest}/parts/{found.parts_digest}.safetensors",
    ]
    assert take_parent(store, "start", folder) == found
    assert store.list("") == kept


def test_parts_may_lie_beside_the_model(folder: Path, store: LocalStore) -> None:
    (parts,) = (folder / "parts").iterdir()
    shutil.move(parts, folder / "parts.safetensors")
    assert take_parent(store, "start", folder).parts_digest == parts.stem


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "parts"])
def test_a_missing_file_is_named(folder: Path, store: LocalStore, name: str) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ConfigError, match=f"parent start: .*{Path(name).stem}"):
        take_parent(store, "start", folder)
    assert store.stat(f"models/sha256/{folder.name}/manifest.json") is None


def test_a_damaged_file_is_refused(folder: Path, store: LocalStore) -> None:
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"model.safetensors has sha256 .*, its manifest says"):
        take_parent(store, "start", folder)
    assert store.list("") == []


def test_a_parent_of_another_size_is_refused(machine: Machine, folder: Path) -> None:
    machine.options["parents"] = {"start": take_parent(machine.store, "start", folder)}
    model = {"architecture": "test_vit", "imageSize": 64, "parent": {"globalModel": "start"}}
    with pytest.raises(ConfigError, match=r"spec\.model\.imageSize is 64, but model start has 32: they must be equal"):
        machine.both(a_round("a", model=model))
