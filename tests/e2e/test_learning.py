"""What the server learns and shares: pretraining that survives its Pod, distillation, and heads of agreeing tasks."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hack.testenv.hospitals import NAME, Hospitals, Site
from hack.testenv.images import write_textures
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.volumes import federation_volume
from tests.e2e.conftest import Launch
from umim import contract
from umim.api.base import ModelReference
from umim.artifacts.models import fetch_parts
from umim.artifacts.parts import read_parts
from umim.models.state import ModelState

Object = dict[str, Any]
CLAIM = "learning"
POOL = {"claimName": CLAIM, "path": "pool.npz", "format": "npz", "task": "none"}
HEADS = {"allowedArtifacts": ["update", "metrics", "head"]}
TASK = "stripes"
MARK = 100_000.0
"""Seconds that no training of these tests takes."""


@pytest.fixture(scope="module")
def volume(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The claim ``learning`` of the federation, with images of the server."""
    folder = tmp_path_factory.mktemp("learning")
    folder.chmod(0o755)
    write_textures(folder / "pool.npz", 24, seed=11)
    with federation_volume(platform, CLAIM, folder):
        yield


@pytest.fixture(scope="module")
def learners(hospitals: Hospitals) -> tuple[Site, Site, Site]:
    """Three hospitals with the same task; the third lets no head out."""
    data = {"format": "npz", "path": "images.npz", "taskName": TASK}
    names = [f"{PREFIX}-learn-{letter}" for letter in "abc"]
    first, second = (hospitals.add(name, {"data": data, "privacy": HEADS}, seed=3) for name in names[:2])
    return first, second, hospitals.add(names[2], {"data": data}, seed=4)


@pytest.fixture(scope="module")
def learned(launch: Launch, volume: None, learners: tuple[Site, Site, Site]) -> Iterator[Round]:
    """A complete round with pretraining, shared heads and distillation."""
    made = launch(
        "learned",
        *learners,
        parent={"init": "mim"},
        serverDataset=POOL,
        pretraining={"epochs": 1, "batchSize": 8},
        training={"heads": "shared", "objective": "supervised+mim"},
        distillation={"epochs": 1, "batchSize": 8},
    )
    made.wait_phase("Complete")
    yield made
    made.delete()


def _model(platform: Platform, reference: Object, path: Path) -> ModelState:
    """Return the parts of a model that the round names."""
    assert fetch_parts(platform.store(), ModelReference.model_validate(reference), path)
    return ModelState.from_parts({}, read_parts(path)[0])


def test_the_model_says_what_the_server_measured_and_shares(learned: Round, learners: tuple[Site, Site, Site]) -> None:
    spec = learned.model()["spec"]
    assert {"server_mim_loss", "distillation_loss_last", "loss_after"} <= spec["metrics"].keys()
    assert spec["metrics"]["server_mim_loss"] > 0
    sites = sorted(site.name for site in learners[:2])
    assert spec["heads"] == [{"taskName": TASK, "task": "classification", "classes": ["0", "1"], "sites": sites}]
    assert spec["partsDigest"] == learned.status["globalModel"]["partsDigest"]
    assert spec["parent"]["partsDigest"] == learned.status["parent"]["partsDigest"]


def test_the_parts_hold_the_decoder_and_the_mean_of_the_heads(
    platform: Platform, learned: Round, learners: tuple[Site, Site, Site], tmp_path: Path
) -> None:
    start = _model(platform, learned.status["parent"], tmp_path / "start")
    model = _model(platform, learned.status["globalModel"], tmp_path / "model")
    assert not start.heads
    assert start.mim.keys() == model.mim.keys() != set()
    assert any(not torch.equal(start.mim[name], model.mim[name]) for name in model.mim)
    store = platform.store()
    keys = [contract.head_key(learned.uid, site.name, 1) for site in learners[:2]]
    first, second = (safetensors.torch.load(store.get(key)) for key in keys)
    for name, value in model.heads[TASK].items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)


def test_a_hospital_that_does_not_allow_it_lets_no_head_out(
    platform: Platform, learned: Round, learners: tuple[Site, Site, Site]
) -> None:
    sent = {key.split("/")[3] for key in learned.objects() if key.endswith("head.safetensors")}
    assert sent == {site.name for site in learners[:2]}
    for site in learners:
        digest = learned.site(site).get("headDigest")
        assert (digest is not None) == (site.name in sent)
        ledger = platform.api.get("Hospital", site.namespace, NAME)["status"]["ledger"]
        assert ledger[-1].get("headDigest") == digest


@pytest.fixture
def pretraining(launch: Launch, volume: None, sites: tuple[Site, Site, Site]) -> Iterator[Round]:
    """A round with a long pretraining."""
    # A seed of its own: a start model that an earlier run has published would keep the figures of that run.
    long = {"epochs": 400, "batchSize": 8, "seed": secrets.randbelow(1 << 31)}
    made = launch("resumed", sites[0], parent={"init": "mim"}, serverDataset=POOL, pretraining=long)
    yield made
    made.delete()


def test_pretraining_goes_on_after_its_pod_was_killed(platform: Platform, pretraining: Round) -> None:
    made = pretraining
    prefix, store = contract.checkpoint_prefix(made.uid, "init"), platform.store()
    made.wait("live progress", lambda status: (status.get("initialization") or {}).get("progress"))
    made.wait("a checkpoint", lambda _: any(info.key.endswith(".json") for info in store.list(prefix)))
    for pod in made.pods(FEDERATION):
        platform.api.delete("Pod", FEDERATION, pod["metadata"]["name"], now=True)
    made.wait("the failure counted", lambda status: status["initialization"].get("failures") == 1)
    _mark(platform, max(info.key for info in store.list(prefix) if info.key.endswith(".json")))
    done = made.wait_phase("Complete")["initialization"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 2, 1)
    start = platform.api.get("GlobalModel", FEDERATION, made.status["parent"]["name"])
    assert start["spec"]["metrics"]["seconds"] > MARK, "the second attempt goes on from the first one's checkpoint"
    assert store.list(prefix) == []


def _mark(platform: Platform, key: str) -> None:
    """Change a figure that a training takes over from its checkpoint and nothing else depends on."""
    state = json.loads(platform.store().get(key))
    state["metrics"]["seconds"] = MARK
    platform.store().put(key, json.dumps(state).encode())
