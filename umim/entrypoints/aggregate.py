"""The aggregator Job: ``python -m umim.entrypoints.aggregate``."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

import umim
from umim import contract, telemetry
from umim.aggregation.engine import weight
from umim.aggregation.heads import SharedHeads, merge_heads
from umim.aggregation.names import packages
from umim.aggregation.outliers import outliers
from umim.aggregation.reader import ReceivedUpdate, SpilledTensors
from umim.aggregation.run import Outcome, collect, fetch_encoder, merge
from umim.api.artifacts import JobResult, UpdateFigures
from umim.api.base import Metrics
from umim.api.figures import weighted_means
from umim.api.globalmodel import Contributor
from umim.api.jobs import AggregateJobConfig
from umim.api.round import DistillationSpec
from umim.artifacts.manifests import read_job_result, software_versions, write_job_result
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import publish_model
from umim.artifacts.parts import write_parts
from umim.artifacts.signing import Signer
from umim.artifacts.store import ObjectStore
from umim.artifacts.writer import WrittenTensors, write_safetensors
from umim.data.load import load_dataset
from umim.distillation.run import Student, Teacher, choose_scale, distil, scaled, server_mim_loss
from umim.entrypoints.runner import run_job
from umim.entrypoints.server import federation_signer, kept_checkpoints, progress_sink
from umim.errors import ConfigError, TrainingError
from umim.models.state import ModelState
from umim.settings import StoreSettings, TelemetrySettings, job_config
from umim.training.reporter import Clock, MergeReporter, log_loading
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings, checkpoints_of, remove_work, work_folder

SERVICE = "umim-aggregator"
SOFTWARE = ("umim", "torch", "timm", "numpy", "safetensors")

_log = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Clock) -> None:
    """Read configuration and settings from ``env`` and aggregate."""
    config = job_config(env, AggregateJobConfig)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=tracing.metrics.store_counter("aggregate"))
    sink = progress_sink(env, config.round_uid, "aggregate", tracing, clock)
    try:
        with tracing.span("aggregate", {"umim.round.uid": config.round_uid, "umim.attempt": config.attempt}):
            around = Surroundings(start_runtime(thread_count(env)), sink, clock)
            aggregate_once(store, config, around, federation_signer(Path(contract.SIGNING_MOUNT)))
    finally:
        tracing.shutdown()


def aggregate_once(
    store: ObjectStore, config: AggregateJobConfig, around: Surroundings, signer: Signer | None = None
) -> None:
    """Aggregate and commit the result, unless an earlier attempt already has. ``signer`` signs the model's manifest."""
    if read_job_result(store, config.round_uid, "aggregate") is not None:
        _log.info("the result of round %s is there already", config.round_uid)
        remove_work(work_folder(config))
        return
    with kept_checkpoints(store, config, "aggregate", around) as keeping:
        result = aggregate(store, config, keeping, signer)
        if not write_job_result(store, "aggregate", result):
            _log.info("another attempt committed the result of round %s", config.round_uid)


def aggregate(
    store: ObjectStore, config: AggregateJobConfig, around: Surroundings, signer: Signer | None = None
) -> JobResult:
    """Merge a round's updates, let the server learn, publish the model, and return the result to commit.

    Too few valid updates give a result without a model. The same updates give the same digest, in any order of
    arrival; without distillation with any number of threads, too. Raises ConfigError for an unknown strategy, a site
    named twice, a parent of another architecture or missing images of the server, ArtifactError when the parent is
    damaged, TrainingError when a loss is not finite, and the store's errors.
    """
    work = work_folder(config)
    with telemetry.step("collect"):
        collected = collect(store, config, work)
    progress = MergeReporter(around.sink, around.clock)
    with telemetry.step("merge"):
        outcome = merge(store, config, collected, torch.get_num_threads(), work, progress)
    result = JobResult(round_uid=config.round_uid, exclusions=list(outcome.exclusions), outliers=_outliers(outcome))
    if outcome.merged is None:
        return result.model_copy(update={"message": outcome.message})
    parent = ModelState.from_parts(SpilledTensors(collected.parent_path), collected.parent_parts)
    heads = merge_heads(outcome.updates, SharedHeads(parent.heads, collected.parent_heads))
    slots = {f"{config.aggregation.strategy}.{name}": file.digest for name, file in outcome.merged.slots.items()}
    merged = ModelState(SpilledTensors(outcome.merged.model.path), parent.mim, heads.tensors, slots)
    fetch = partial(fetch_encoder, store, config, collected.parent_path, work)
    with telemetry.step("learn"):
        state, figures = _learn(config, merged, parent, outcome.updates, fetch, around)
    written = outcome.merged.model
    if state.encoder is not merged.encoder:
        written = write_safetensors(state.encoder, work / "learned.safetensors")
    result = result.model_copy(update={"metrics": figures})
    with telemetry.step("publish"):
        return _publish(store, config, outcome, written, state, heads, result, around, signer)


def _outliers(outcome: Outcome) -> list[UpdateFigures]:
    """Return how each update lies beside the others, where the merge has looked at it."""
    if outcome.gram is None:
        return []
    return outliers([update.site for update in outcome.updates], outcome.gram, outcome.shares)


def _publish(
    store: ObjectStore,
    config: AggregateJobConfig,
    outcome: Outcome,
    written: WrittenTensors,
    state: ModelState,
    heads: SharedHeads,
    result: JobResult,
    around: Surroundings,
    signer: Signer | None,
) -> JobResult:
    """Publish the model and return the result with its digests. ``result`` has the figures of the server."""
    updates = outcome.updates
    parts = write_parts(state.parts(), heads.described, work_folder(config) / "model-parts.safetensors")
    digest = publish_model(
        store,
        written.path,
        architecture=config.architecture,
        image_size=config.image_size,
        strategy=config.aggregation.strategy,
        round_uid=config.round_uid,
        seed=config.seed,
        software=software_versions([*SOFTWARE, *packages(config.aggregation.strategy)]),
        created=around.clock.now(),
        parent=config.parent,
        contributors=[Contributor(site=one.site, update_digest=one.digest, samples=one.samples) for one in updates],
        metrics=weighted_means([(one.metrics, one.samples) for one in updates]) | result.metrics,
        parts=parts,
        heads=heads.described,
        optimiser=list(outcome.merged.slots.values()) if outcome.merged is not None else (),
        attestations=[one.attestation for one in updates if one.attestation is not None],
        seal=None if signer is None else signer.sign_model,
        digest=written.digest,
    )
    _log.info("published model %s from %d updates", digest, len(updates))
    update = {
        "model_digest": digest,
        "parts_digest": None if parts is None else parts.digest,
        "heads": list(heads.described),
        "head_exclusions": list(heads.exclusions),
    }
    return result.model_copy(update=update)


def _learn(
    config: AggregateJobConfig,
    merged: ModelState,
    parent: ModelState,
    updates: Sequence[ReceivedUpdate],
    fetch: Callable[[ReceivedUpdate], Path],
    around: Surroundings,
) -> tuple[ModelState, Metrics]:
    """Choose the scale of the merged change, distil and measure, as far as the round asks and there are images.

    A single scale is in ``merged`` already. ``fetch`` writes an update's encoder to a file.
    """
    scales = config.aggregation.scales
    if config.data is None:
        if config.distillation is not None or len(scales) > 1:
            raise ConfigError("spec.serverDataset is missing: distillation and several aggregation.scales need it")
        return merged, {}
    if config.distillation is None and not merged.mim:
        _log.warning("the model has no MIM decoder: it is not measured, and the first of aggregation.scales is taken")
        return scaled(merged, parent, scales[0]) if len(scales) > 1 else merged, {}
    unlabelled = config.data.model_copy(update={"task": "none"})
    dataset = load_dataset(unlabelled, config.image_size, log_loading(around.clock))
    student, runtime = Student(config.architecture, config.image_size, dataset), around.runtime
    state, figures = merged, {}
    if len(scales) > 1:
        scale, state = choose_scale(scales, merged, parent, student, config.seed, runtime)
        figures = {"aggregation_scale": scale}
    if config.distillation is not None:
        state, distilled = _distil(config, config.distillation, student, state, parent, updates, fetch, around)
        figures |= distilled
    loss = server_mim_loss(state, student, config.seed, runtime)
    if loss is None:
        return state, figures
    if not math.isfinite(loss):
        raise TrainingError(f"the MIM loss of the merged model on spec.serverDataset is {loss}")
    return state, figures | {"server_mim_loss": loss}


def _distil(
    config: AggregateJobConfig,
    spec: DistillationSpec,
    student: Student,
    merged: ModelState,
    parent: ModelState,
    updates: Sequence[ReceivedUpdate],
    fetch: Callable[[ReceivedUpdate], Path],
    around: Surroundings,
) -> tuple[ModelState, Metrics]:
    teachers = [
        Teacher(update.site, weight(config.aggregation, update.samples), SpilledTensors(fetch(update)))
        for update in updates
    ]
    start = hashlib.sha256(f"{config.parent.model_dump_json()} {config.aggregation.model_dump_json()}\n".encode())
    for update in updates:
        start.update(f"{update.site} {update.digest} {update.samples}\n".encode())
    checkpoints = checkpoints_of(config, spec, start.hexdigest(), student.dataset, around)
    return distil(spec, student, merged, parent, teachers, checkpoints, around)


if __name__ == "__main__":
    sys.exit(run_job(partial(main, clock=Clock()), SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
