"""The Job of one hospital in one round: ``python -m umim.entrypoints.train_site``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

import umim
from umim import contract, telemetry
from umim.api.jobs import SiteJobConfig
from umim.api.round import Progress
from umim.artifacts.manifests import read_update_manifest, software_versions
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import fetch_model, publish_update
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import read_safetensors, write_safetensors
from umim.data.load import load_dataset
from umim.entrypoints.runner import run_job
from umim.errors import ArtifactError, ConfigError
from umim.models.state import ModelState
from umim.progress import ProgressPublisher
from umim.settings import RedisSettings, StoreSettings, TelemetrySettings, job_config
from umim.training.privacy import allowed_metrics, allowed_progress, protect
from umim.training.reporter import Clock, log_loading, log_progress
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings, remove_work, train_at_site, work_folder

SERVICE = "umim-site"
SOFTWARE = ("umim", "torch", "timm", "numpy", "safetensors")

LOG = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Clock) -> None:
    """Read configuration and settings from ``env``, train and commit the update."""
    config = job_config(env, SiteJobConfig)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=tracing.metrics.count_store_bytes)
    publisher = ProgressPublisher(
        RedisSettings.from_env(env), contract.progress_stream(config.round_uid, config.site), clock.monotonic
    )

    def sink(progress: Progress) -> None:
        log_progress(progress)
        progress = allowed_progress(progress, config.privacy)
        publisher.publish(progress, last=progress.step == progress.steps)
        tracing.metrics.record_training(config.site, progress.images_per_second, progress.loss)

    attributes: telemetry.Attributes = {
        "umim.round.uid": config.round_uid,
        "umim.site": config.site,
        "umim.attempt": config.attempt,
    }
    try:
        with tracing.span("train_site", attributes):
            train_once(store, config, Surroundings(start_runtime(thread_count(env)), sink, clock))
    finally:
        tracing.shutdown()


def train_once(store: ObjectStore, config: SiteJobConfig, around: Surroundings) -> None:
    """Train and commit the update, unless this attempt already has. Checkpoints are removed after the commit."""
    folder = work_folder(config)
    if read_update_manifest(store, config.round_uid, config.site, config.attempt) is not None:
        LOG.info("attempt %d has committed its update already", config.attempt)
    else:
        _train(store, config, around, folder)
    remove_work(folder)


def _train(store: ObjectStore, config: SiteJobConfig, around: Surroundings, folder: Path) -> None:
    if "update" not in config.privacy.allowed_artifacts:
        raise ConfigError(
            f"spec.privacy.allowedArtifacts of the Hospital is {config.privacy.allowed_artifacts}: without update "
            "the hospital takes part in no round"
        )
    parent = _fetch_parent(store, config, folder)
    dataset = load_dataset(config.data, config.image_size, log_loading(around.clock))
    trained = train_at_site(config, ModelState(parent), dataset, around)
    path = folder / "update.safetensors"
    write_safetensors(protect(trained.state.encoder, parent, config.privacy), path)
    manifest = publish_update(
        store,
        path,
        round_uid=config.round_uid,
        site=config.site,
        attempt=config.attempt,
        parent_digest=config.parent.digest,
        architecture=config.architecture,
        image_size=config.image_size,
        samples=trained.samples,
        metrics=allowed_metrics(trained.metrics, config.privacy),
        seed=config.training.seed,
        software=software_versions(SOFTWARE),
        created=around.clock.now(),
    )
    LOG.info("committed update %s from %d images", manifest.file.digest, manifest.samples)


def _fetch_parent(store: ObjectStore, config: SiteJobConfig, folder: Path) -> dict[str, Tensor]:
    """Download and verify the parent model. Raises ArtifactError when it is not the model that the round names."""
    path = folder / "parent.safetensors"
    manifest = fetch_model(store, config.parent.digest, path)
    found, wanted = (manifest.architecture, manifest.image_size), (config.architecture, config.image_size)
    if found != wanted:
        raise ArtifactError(
            f"parent model {config.parent.name} is {found[0]} for {found[1]} pixels, the round wants {wanted[0]} for "
            f"{wanted[1]}"
        )
    return read_safetensors(path)


if __name__ == "__main__":
    sys.exit(run_job(partial(main, clock=Clock()), SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
