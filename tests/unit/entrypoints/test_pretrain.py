"""The Job that makes a start model, against a store in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.unit.training.parts import ARCHITECTURE, NOW, SIZE, Kill, around, dataset, init_config, kill_after
from umim.api.jobs import InitJobConfig
from umim.artifacts.manifests import read_job_result
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model
from umim.entrypoints.pretrain import initialise_once
from umim.errors import ConfigError
from umim.models.encoder import create_encoder
from umim.training.runtime import Runtime
from umim.training.site import work_folder


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def mim(tmp_path: Path) -> InitJobConfig:
    np.savez(tmp_path / "pool.npz", images=dataset().images[:, 0])
    data = {"path": str(tmp_path / "pool.npz"), "format": "npz", "task": "classification"}
    return InitJobConfig.model_validate(init_config(tmp_path / "work").to_dict() | {"data": data})


def digest_of(store: MemoryStore, config: InitJobConfig) -> str:
    result = read_job_result(store, config.round_uid, "init")
    assert result is not None
    assert result.model_digest is not None
    return result.model_digest


def test_a_random_start_model_is_the_seeds_encoder_and_loads_into_plain_timm(
    store: MemoryStore, runtime: Runtime, tmp_path: Path
) -> None:
    config = init_config(tmp_path / "work", init="random", seed=3)
    initialise_once(store, config, around(runtime))
    manifest = fetch_model(store, digest_of(store, config), tmp_path / "model.safetensors")
    assert (manifest.strategy, manifest.created, manifest.seed) == ("init-random", NOW, 3)
    net = timm.create_model(ARCHITECTURE, img_size=SIZE, num_classes=0)
    net.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected = create_encoder(ARCHITECTURE, SIZE, seed=3).net.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


def test_a_mim_start_model_is_trained_on_the_pool_whatever_its_labels(
    store: MemoryStore, mim: InitJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    initialise_once(store, mim, around(runtime))
    manifest = fetch_model(store, digest_of(store, mim), tmp_path / "m")
    assert manifest.strategy == "init-mim"
    assert manifest.metrics["train_loss_last"] > 0
    assert list(Path(mim.work_path).iterdir()) == []


def test_after_a_kill_the_same_model_is_published(store: MemoryStore, mim: InitJobConfig, runtime: Runtime) -> None:
    with pytest.raises(Kill):
        initialise_once(store, mim, kill_after(runtime, 4))
    kept = [info.key for info in store.list("")]
    assert kept == [f"rounds/uid-1/init/checkpoints/epoch-0001.{suffix}" for suffix in ("json", "safetensors")]
    shutil.rmtree(work_folder(mim))  # as the emptyDir of the Pod
    initialise_once(store, mim, around(runtime))
    assert store.list("rounds/uid-1/init/checkpoints/") == []
    other = MemoryStore()
    initialise_once(other, mim, around(runtime))
    assert digest_of(store, mim) == digest_of(other, mim)


def test_a_second_attempt_changes_nothing(store: MemoryStore, mim: InitJobConfig, runtime: Runtime) -> None:
    initialise_once(store, mim, around(runtime))
    before = store.list("")
    assert mim.data is not None
    Path(mim.data.path).unlink()
    initialise_once(store, mim, around(runtime))
    assert store.list("") == before


def test_mim_without_images_is_refused(store: MemoryStore, runtime: Runtime, tmp_path: Path) -> None:
    config = init_config(tmp_path).model_copy(update={"data": None})
    with pytest.raises(ConfigError, match=r"spec.serverDataset is missing"):
        initialise_once(store, config, around(runtime))
