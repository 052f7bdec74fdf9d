"""The server's step after the merge: scale, distillation, figures; and that it goes on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation
from tests.unit.training.parts import ARCHITECTURE, SIZE, Kill, around, dataset, kill_after
from umim.api.jobs import AggregateJobConfig
from umim.api.round import AggregationSpec, DistillationSpec
from umim.artifacts.manifests import read_job_result, read_model_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_parts
from umim.artifacts.parts import read_parts, write_parts
from umim.entrypoints.aggregate import aggregate_once
from umim.errors import ConfigError
from umim.models.encoder import create_encoder
from umim.models.mim import create_mim
from umim.models.state import ModelState
from umim.training.runtime import Runtime
from umim.training.site import encoder_tensors, tensors_of, work_folder

SITES = ("hospital-a.x", "hospital-b.x")
SHAPE: dict[str, Any] = {"architecture": ARCHITECTURE, "image_size": SIZE}
DISTILLATION = DistillationSpec(epochs=2, batch_size=8, learning_rate=1e-3)


def decoder() -> dict[str, torch.Tensor]:
    return tensors_of(create_mim(create_encoder(ARCHITECTURE, SIZE, 7), 0.75, 1))


def encoder(seed: int) -> dict[str, torch.Tensor]:
    return encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed))


@pytest.fixture
def pool(tmp_path: Path) -> dict[str, str]:
    """The server's images. Their labels cannot be read as classes: nobody may look at them."""
    path = tmp_path / "pool.npz"
    np.savez(path, images=dataset().images[:, 0])
    return {"path": str(path), "format": "npz", "task": "classification"}


def federation(folder: Path, mim: dict[str, torch.Tensor] | None) -> Federation:
    """A round of two sites, from a parent with or without a decoder."""
    made = Federation(MemoryStore(), folder)
    parts = write_parts(ModelState({}, mim or {}).parts(), [], folder / "start-parts")
    made.start(encoder(7), parts, **SHAPE)
    for number, site in enumerate(SITES):
        made.commit(site, encoder(number), metrics={"loss_after": 1.0}, **SHAPE)
    return made


@pytest.fixture
def started(tmp_path: Path) -> Federation:
    return federation(tmp_path / "federation", decoder())


def config(of: Federation, pool: dict[str, str] | None, **changes: Any) -> AggregateJobConfig:
    """The aggregator's configuration."""
    return of.config(**{**SHAPE, "data": pool, **changes})


def digests(store: MemoryStore) -> tuple[str | None, str | None]:
    result = read_job_result(store, UID, "aggregate")
    assert result is not None
    return result.model_digest, result.parts_digest


def test_a_model_with_a_decoder_is_measured_on_the_servers_images(
    started: Federation, pool: dict[str, str], runtime: Runtime
) -> None:
    aggregate_once(started.store, config(started, pool), around(runtime))
    result = read_job_result(started.store, UID, "aggregate")
    assert result is not None
    assert result.metrics["server_mim_loss"] > 0
    figures = read_model_manifest(started.store, result.model_digest or "").metrics
    assert figures == {"loss_after": 1.0, **result.metrics}


def test_a_model_without_a_decoder_is_not_measured(tmp_path: Path, pool: dict[str, str], runtime: Runtime) -> None:
    bare = federation(tmp_path / "bare", None)
    aggregate_once(bare.store, config(bare, pool), around(runtime))
    result = read_job_result(bare.store, UID, "aggregate")
    assert result is not None
    assert (result.metrics, result.parts_digest) == ({}, None)


def test_distillation_changes_encoder_and_decoder_and_tells_its_figures(
    started: Federation, pool: dict[str, str], runtime: Runtime, tmp_path: Path
) -> None:
    aggregate_once(started.store, config(started, pool), around(runtime))
    merged = digests(started.store)
    started.store.delete_prefix(f"rounds/{UID}/aggregate/")
    aggregate_once(started.store, config(started, pool, distillation=DISTILLATION), around(runtime))
    distilled = digests(started.store)
    assert merged[0] != distilled[0]
    result = read_job_result(started.store, UID, "aggregate")
    assert result is not None
    assert {"server_mim_loss", "distillation_loss_last"} <= result.metrics.keys()
    model = started.parent.model_copy(update={"digest": distilled[0], "parts_digest": distilled[1]})
    assert fetch_parts(started.store, model, tmp_path / "parts")
    learned = ModelState.from_parts({}, read_parts(tmp_path / "parts")[0]).mim
    assert any(not torch.equal(value, decoder()[name]) for name, value in learned.items())


def test_after_a_kill_distillation_goes_on_in_another_pod(
    started: Federation, pool: dict[str, str], runtime: Runtime
) -> None:
    asked = config(started, pool, distillation=DISTILLATION)
    with pytest.raises(Kill):
        aggregate_once(started.store, asked, kill_after(runtime, 4))
    prefix = f"rounds/{UID}/aggregate/checkpoints/"
    assert [info.key.removeprefix(prefix) for info in started.store.list(prefix)] == [
        "epoch-0001.json",
        "epoch-0001.safetensors",
    ]
    shutil.rmtree(work_folder(asked))  # as the emptyDir of the Pod
    reports: list[Any] = []
    aggregate_once(started.store, asked, around(runtime, reports))
    assert {report.epoch for report in reports} <= {1, 2}, "the first epoch is not trained again"
    assert started.store.list(prefix) == []
    resumed = digests(started.store)
    started.store.delete_prefix(f"rounds/{UID}/aggregate/")
    aggregate_once(started.store, asked, around(runtime))
    assert digests(started.store) == resumed


def test_of_several_scales_one_is_chosen_and_told(started: Federation, pool: dict[str, str], runtime: Runtime) -> None:
    several = AggregationSpec(scales=[0.25, 1.0, 3.0])
    aggregate_once(started.store, config(started, pool, aggregation=several), around(runtime))
    result = read_job_result(started.store, UID, "aggregate")
    assert result is not None
    chosen = result.metrics["aggregation_scale"]
    assert chosen in several.scales
    started.store.delete_prefix(f"rounds/{UID}/aggregate/")
    alone = AggregationSpec(scales=[chosen])
    aggregate_once(started.store, config(started, pool, aggregation=alone), around(runtime))
    assert digests(started.store)[0] == result.model_digest


@pytest.mark.parametrize(
    "change", [{"distillation": DISTILLATION}, {"aggregation": AggregationSpec(scales=[0.5, 1.0])}]
)
def test_what_needs_images_is_refused_without_them(
    started: Federation, runtime: Runtime, change: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"spec\.serverDataset is missing"):
        aggregate_once(started.store, config(started, None, **change), around(runtime))
