"""The Job of one hospital in one round: ``python -m umim.entrypoints.train_site``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import umim
from umim import contract, telemetry
from umim.api.artifacts import ModelManifest, UpdateManifest
from umim.api.globalmodel import LONGEST_CLASS, MOST_CLASSES, SharedHead
from umim.api.jobs import SiteJobConfig
from umim.api.round import Progress
from umim.artifacts.manifests import read_update_manifest, software_versions
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import HeadFile, fetch_model, fetch_parts, publish_update
from umim.artifacts.parts import read_parts
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.data.load import load_dataset
from umim.entrypoints.gate import Gate, Mounts
from umim.entrypoints.runner import run_job
from umim.errors import ArtifactError, ConfigError
from umim.models.state import ModelState
from umim.progress import ProgressPublisher
from umim.settings import RedisSettings, StoreSettings, TelemetrySettings, job_config
from umim.training.privacy import allowed_metrics, allowed_progress, head_may_leave, protect
from umim.training.reporter import Clock, log_loading, log_progress
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings, Trained, remove_work, train_at_site, work_folder
from umim.training.updates import Residuals, write_update

SERVICE = "umim-site"
SOFTWARE = ("umim", "torch", "timm", "numpy", "safetensors")

LOST_FILE = "lost.safetensors"
"""What the encoding lost, in the work folder until it is whole."""

LOG = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Clock) -> None:
    """Read configuration and settings from ``env``, train and commit the update."""
    config = job_config(env, SiteJobConfig)
    gate = Gate.open(config, torch.cuda.device_count(), Mounts(), clock.now)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    count = tracing.metrics.store_counter("site", config.site)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=count)
    publisher = ProgressPublisher(
        RedisSettings.from_env(env), contract.progress_stream(config.round_uid, config.site), clock.monotonic
    )

    def sink(progress: Progress) -> None:
        gate.check_open()
        log_progress(progress)
        progress = allowed_progress(progress, config.training, config.privacy)
        publisher.publish(progress, last=progress.step == progress.steps)
        tracing.metrics.record_training(config.site, progress.images_per_second, progress.loss)

    attributes: telemetry.Attributes = {
        "umim.round.uid": config.round_uid,
        "umim.site": config.site,
        "umim.attempt": config.attempt,
    }
    try:
        with tracing.span("train_site", attributes):
            train_once(store, config, Surroundings(start_runtime(thread_count(env)), sink, clock), gate)
    finally:
        tracing.shutdown()


def train_once(store: ObjectStore, config: SiteJobConfig, around: Surroundings, gate: Gate | None = None) -> None:
    """Train and commit the update, unless this attempt already has. Checkpoints are removed after the commit.

    ``gate`` is the hospital's own; None in a simulation, where there is nobody to guard against.
    """
    folder, residuals = work_folder(config), Residuals.of(config)
    update = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    if update is not None:
        LOG.info("attempt %d has committed its update already", config.attempt)
    else:
        update = _train(store, config, around, folder, residuals, gate)
    if gate is not None:
        gate.delivered(update)
    residuals.remove_old()
    remove_work(folder)


def _train(
    store: ObjectStore,
    config: SiteJobConfig,
    around: Surroundings,
    folder: Path,
    residuals: Residuals,
    gate: Gate | None,
) -> UpdateManifest:
    if "update" not in config.privacy.allowed_artifacts:
        raise ConfigError(
            f"spec.privacy.allowedArtifacts of the Hospital is {config.privacy.allowed_artifacts}: without update "
            "the hospital takes part in no round"
        )
    with telemetry.step("fetch_model"):
        manifest, parent, heads = _fetch_parent(store, config, folder)
    with telemetry.step("load_data"):
        dataset = load_dataset(config.data, config.image_size, log_loading(around.clock))
    parent = _with_fitting_head(parent, heads, config, dataset.classes)
    with telemetry.step("train"):
        trained = train_at_site(config, parent, dataset, around)
    with telemetry.step("upload"):
        return _commit(store, config, around, folder, residuals, gate, manifest, parent, trained)


def _commit(
    store: ObjectStore,
    config: SiteJobConfig,
    around: Surroundings,
    folder: Path,
    residuals: Residuals,
    gate: Gate | None,
    manifest: ModelManifest,
    parent: ModelState,
    trained: Trained,
) -> UpdateManifest:
    """Write the update as it may leave, and commit it."""
    written = write_update(
        protect(trained.state.encoder, parent.encoder, config.privacy, around.entropy),
        parent.encoder,
        config.encoding,
        config.privacy,
        residuals,
        residuals.last_update(manifest, config.site),
        folder / "update.safetensors",
        folder / LOST_FILE,
    )
    residuals.keep(folder / LOST_FILE, written.digest)
    update = publish_update(
        store,
        written.path,
        round_uid=config.round_uid,
        site=config.site,
        attempt=config.attempt,
        parent_digest=config.parent.digest,
        architecture=config.architecture,
        image_size=config.image_size,
        samples=trained.samples,
        metrics=allowed_metrics(trained.metrics, config.training, config.privacy),
        differential_privacy=trained.differential_privacy,
        seed=config.training.seed,
        software=software_versions(SOFTWARE),
        created=around.clock.now(),
        encoding=config.encoding.format,
        head=_head_file(trained, config, folder),
        seal=None if gate is None else gate.seal,
        digest=written.digest,
    )
    shared = "a head of task " + update.head.task_name if update.head is not None else "no head"
    LOG.info("committed update %s from %d images, with %s", update.file.digest, update.samples, shared)
    return update


def _fetch_parent(
    store: ObjectStore, config: SiteJobConfig, folder: Path
) -> tuple[ModelManifest, ModelState, Mapping[str, SharedHead]]:
    """Return the verified parent model with its manifest, and its shared heads by task name.

    Raises ArtifactError when it is not the model that the round names.
    """
    path = folder / "parent.safetensors"
    manifest = fetch_model(store, config.parent.digest, path)
    found, wanted = (manifest.architecture, manifest.image_size), (config.architecture, config.image_size)
    if found != wanted:
        raise ArtifactError(
            f"parent model {config.parent.name} is {found[0]} for {found[1]} pixels, the round wants {wanted[0]} for "
            f"{wanted[1]}"
        )
    parts_path = folder / "parts.safetensors"
    if not fetch_parts(store, config.parent, parts_path):
        return manifest, ModelState(read_safetensors(path)), {}
    parts, heads = read_parts(parts_path)
    return manifest, ModelState.from_parts(read_safetensors(path), parts), {head.task_name: head for head in heads}


def _with_fitting_head(
    parent: ModelState, heads: Mapping[str, SharedHead], config: SiteJobConfig, classes: Sequence[str]
) -> ModelState:
    """Return the parent without its head of this hospital's task where the hospital means other classes by it."""
    name = config.data.task_name or ""
    known = heads.get(name)
    if known is None or (known.task, known.classes) == (config.data.task, list(classes)):
        return parent
    LOG.warning(
        "the model's head of task %s has %s classes %s, the hospital has %s classes %s: a new head is trained",
        *(name, known.task, known.classes, config.data.task, list(classes)),
    )
    return replace(parent, heads={task: tensors for task, tensors in parent.heads.items() if task != name})


def _head_file(trained: Trained, config: SiteJobConfig, folder: Path) -> HeadFile | None:
    """Write the trained head to a file; returns None where there is none or it has to stay."""
    name = config.data.task_name
    head = trained.state.heads.get(name or "")
    if name is None or head is None or not head_may_leave(config.training.heads, name, config.privacy):
        return None
    if len(trained.classes) > MOST_CLASSES or any(len(label) > LONGEST_CLASS for label in trained.classes):
        LOG.warning(
            "the head stays here: a shared one has at most %d classes with names of at most %d characters",
            *(MOST_CLASSES, LONGEST_CLASS),
        )
        return None
    path = folder / "head.safetensors"
    write_safetensors(head, path)
    return HeadFile(path, name, config.data.task, trained.classes)


if __name__ == "__main__":
    sys.exit(run_job(partial(main, clock=Clock()), SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
