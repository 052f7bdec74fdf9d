"""The Job that makes a round's start model: ``python -m umim.entrypoints.pretrain``."""

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
from umim.api.artifacts import JobResult
from umim.api.base import Metrics
from umim.api.jobs import InitJobConfig
from umim.api.round import Progress
from umim.artifacts.manifests import read_job_result, software_versions, write_job_result
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import publish_model
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import write_safetensors
from umim.data.load import load_dataset
from umim.entrypoints.runner import run_job
from umim.errors import ConfigError
from umim.models.encoder import create_encoder
from umim.settings import StoreSettings, TelemetrySettings, job_config
from umim.training.reporter import Clock, log_loading, log_progress
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings, encoder_tensors, pretrain, remove_work, work_folder

SERVICE = "umim-pretrain"
SOFTWARE = ("umim", "torch", "timm", "numpy", "safetensors")

LOG = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Clock) -> None:
    """Read configuration and settings from ``env``, make the model and publish it."""
    config = job_config(env, InitJobConfig)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=tracing.metrics.count_store_bytes)

    def sink(progress: Progress) -> None:
        log_progress(progress)
        tracing.metrics.record_training("server", progress.images_per_second, progress.loss)

    attributes: telemetry.Attributes = {
        "umim.round.uid": config.round_uid,
        "umim.attempt": config.attempt,
        "umim.init": config.init,
    }
    try:
        with tracing.span("pretrain", attributes):
            initialise_once(store, config, Surroundings(start_runtime(thread_count(env)), sink, clock))
    finally:
        tracing.shutdown()


def initialise_once(store: ObjectStore, config: InitJobConfig, around: Surroundings) -> None:
    """Make and publish the start model, and commit the result, unless an earlier attempt already has."""
    folder = work_folder(config)
    if read_job_result(store, config.round_uid, "init") is not None:
        LOG.info("the start model of round %s is there already", config.round_uid)
    else:
        tensors, metrics = _make(config, around)
        path = folder / "model.safetensors"
        write_safetensors(tensors, path)
        digest = publish_model(
            store,
            path,
            architecture=config.architecture,
            image_size=config.image_size,
            strategy=f"init-{config.init}",
            round_uid=config.round_uid,
            seed=config.optimisation.seed,
            software=software_versions(SOFTWARE),
            created=around.clock.now(),
            metrics=metrics,
        )
        write_job_result(store, "init", JobResult(round_uid=config.round_uid, model_digest=digest))
        LOG.info("published start model %s", digest)
    remove_work(folder)


def _make(config: InitJobConfig, around: Surroundings) -> tuple[dict[str, Tensor], Metrics]:
    """Return the start model's tensors and figures."""
    if config.init == "random":
        encoder = create_encoder(config.architecture, config.image_size, config.optimisation.seed)
        return encoder_tensors(encoder), {}
    if config.data is None:
        raise ConfigError("spec.pretraining.dataset is missing: model.parent.init mim needs the server's images")
    unlabelled = config.data.model_copy(update={"task": "none"})
    dataset = load_dataset(unlabelled, config.image_size, log_loading(around.clock))
    trained = pretrain(config, dataset, around)
    return dict(trained.state.encoder), trained.metrics


if __name__ == "__main__":
    sys.exit(run_job(partial(main, clock=Clock()), SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
