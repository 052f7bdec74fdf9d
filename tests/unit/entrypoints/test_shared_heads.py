"""What of a site's training may leave besides the encoder, and what it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.entrypoints.test_train_site import changed, write_data
from tests.unit.training.parts import ARCHITECTURE, NOW, SIZE, around, site_config
from umim import contract
from umim.api.base import ModelReference
from umim.api.globalmodel import SharedHead
from umim.api.jobs import SiteJobConfig
from umim.artifacts.manifests import read_update_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import publish_model
from umim.artifacts.parts import write_parts
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.entrypoints.train_site import train_once
from umim.models.encoder import create_encoder
from umim.models.heads import ClassificationHead
from umim.models.mim import create_mim
from umim.models.state import ModelState
from umim.training.runtime import Runtime
from umim.training.site import encoder_tensors, tensors_of

SHARED = {"training": {"heads": "shared"}, "privacy": {"allowedArtifacts": ["update", "metrics", "head"]}}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def publish(store: MemoryStore, folder: Path, state: ModelState, *heads: SharedHead) -> dict[str, Any]:
    """Publish a parent and return its reference."""
    path = write_safetensors(state.encoder, folder / "start").path
    parts = write_parts(state.parts(), heads, folder / "start-parts")
    digest = publish_model(
        store,
        path,
        architecture=ARCHITECTURE,
        image_size=SIZE,
        strategy="init-mim",
        round_uid="uid-0",
        seed=7,
        software={},
        created=NOW,
        parts=parts,
    )
    return ModelReference(name="base", digest=digest, parts_digest=None if parts is None else parts.digest).to_dict()


def start() -> ModelState:
    """An encoder with a decoder and a head whose weights are all 0."""
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=7)
    head = {name: torch.zeros_like(value) for name, value in tensors_of(_head(encoder.width)).items()}
    return ModelState(encoder_tensors(encoder), tensors_of(create_mim(encoder, 0.75, 1)), {"stripes": head})


def _head(width: int) -> ClassificationHead:
    return ClassificationHead(width, torch.ones(2))


@pytest.fixture
def config(tmp_path: Path, store: MemoryStore) -> SiteJobConfig:
    data = {"path": str(write_data(tmp_path / "data.npz")), "format": "npz", "task": "classification"}
    base = site_config(tmp_path / "work", objective="supervised+mim")
    return changed(
        base,
        data={**data, "taskName": "stripes"},
        parent=publish(store, tmp_path, start(), known("0", "1")),
        privacy=SHARED["privacy"],
        training={**base.training.to_dict(), "heads": "shared"},
    )


def known(*classes: str) -> SharedHead:
    return SharedHead(task_name="stripes", task="classification", classes=list(classes))


def keys(store: MemoryStore) -> list[str]:
    return [info.key.rsplit("/", 1)[1] for info in store.list("rounds/")]


def test_a_shared_head_leaves_with_its_meaning_and_nothing_else_does(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    train_once(store, config, around(runtime))
    assert keys(store) == ["head.safetensors", "manifest.json", "update.safetensors"]
    manifest = read_update_manifest(store, config.round_uid, config.site, 1)
    assert manifest is not None
    assert manifest.head is not None
    assert (manifest.head.task_name, manifest.head.task, manifest.head.classes) == (
        "stripes",
        "classification",
        ["0", "1"],
    )
    store.download(contract.head_key(config.round_uid, config.site, 1), tmp_path / "head")
    assert sorted(read_safetensors(tmp_path / "head")) == ["linear.bias", "linear.weight"]
    assert set(manifest.file.tensors) == set(start().encoder), "the decoder stays at the site"


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"heads": "private"}},
        {"privacy": {"allowedArtifacts": ["update", "metrics"]}},
        {"privacy": {"allowedArtifacts": ["update", "head"], "clipNorm": 1.0}},
        {"privacy": {"allowedArtifacts": ["update", "head"], "clipNorm": 1.0, "noiseMultiplier": 0.1}},
        {"data": {"taskName": None}},
        {"training": {"objective": "mim"}},
    ],
    ids=["private round", "not allowed", "clipped", "noised", "no task name", "no head"],
)
def test_otherwise_the_head_stays(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, change: dict[str, dict[str, Any]]
) -> None:
    body = config.to_dict()
    strict = changed(config, **{field: {**body[field], **values} for field, values in change.items()})
    train_once(store, strict, around(runtime))
    assert keys(store) == ["manifest.json", "update.safetensors"]
    manifest = read_update_manifest(store, config.round_uid, config.site, 1)
    assert manifest is not None
    assert manifest.head is None


def test_training_goes_on_from_the_models_decoder_and_head(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    """With a vanishing learning rate what leaves is what the model held."""
    still = changed(config, training={**config.training.to_dict(), "learningRate": 1e-30})
    train_once(store, still, around(runtime))
    store.download(contract.head_key(config.round_uid, config.site, 1), tmp_path / "head")
    assert max(value.abs().max() for value in read_safetensors(tmp_path / "head").values()) < 1e-20


def test_a_head_of_other_classes_is_made_anew(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = publish(store, tmp_path, start(), known("1", "0"))
    still = changed(config, parent=other, training={**config.training.to_dict(), "learningRate": 1e-30})
    train_once(store, still, around(runtime))
    assert "the model's head of task stripes has classification classes ['1', '0']" in caplog.text
    store.download(contract.head_key(config.round_uid, config.site, 1), tmp_path / "head")
    assert read_safetensors(tmp_path / "head")["linear.weight"].abs().max() > 1e-3
