"""The Job that makes a round's start model: ``python -m umim.entrypoints.pretrain``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import umim
from umim import contract, telemetry
from umim.api.artifacts import JobResult
from umim.api.base import Metrics
from umim.api.jobs import InitJobConfig
from umim.artifacts.manifests import read_job_result, software_versions, write_job_result
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import publish_model
from umim.artifacts.parts import write_parts
from umim.artifacts.signing import Signer
from umim.artifacts.store import ObjectStore
from umim.artifacts.writer import write_safetensors
from umim.data.load import load_dataset
from umim.entrypoints.runner import run_job
from umim.entrypoints.server import federation_signer, kept_checkpoints, progress_sink
from umim.errors import ConfigError
from umim.models.encoder import create_encoder
from umim.models.state import ModelState
from umim.settings import StoreSettings, TelemetrySettings, job_config
from umim.training.reporter import Clock, log_loading
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings, encoder_tensors, pretrain, remove_work, work_folder

SERVICE = "umim-pretrain"
SOFTWARE = ("umim", "torch", "timm", "numpy", "safetensors")

LOG = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Clock) -> None:
    """Read configuration and settings from ``env``, make the model and publish it."""
    config = job_config(env, InitJobConfig)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=tracing.metrics.store_counter("init"))
    sink = progress_sink(env, config.round_uid, "init", tracing, clock)
    attributes: telemetry.Attributes = {
        "umim.round.uid": config.round_uid,
        "umim.attempt": config.attempt,
        "umim.init": config.init,
    }
    try:
        with tracing.span("pretrain", attributes):
            around = Surroundings(start_runtime(thread_count(env)), sink, clock)
            initialise_once(store, config, around, federation_signer(Path(contract.SIGNING_MOUNT)))
    finally:
        tracing.shutdown()


def initialise_once(
    store: ObjectStore, config: InitJobConfig, around: Surroundings, signer: Signer | None = None
) -> None:
    """Make and publish the start model, and commit the result, unless an earlier attempt already has.

    ``signer`` signs the model's manifest.
    """
    if read_job_result(store, config.round_uid, "init") is not None:
        LOG.info("the start model of round %s is there already", config.round_uid)
        remove_work(work_folder(config))
        return
    with kept_checkpoints(store, config, "init", around) as keeping:
        with telemetry.step("make"):
            state, metrics = _make(config, keeping)
        with telemetry.step("publish"):
            result = _publish(store, config, state, metrics, around.clock, signer)
        write_job_result(store, "init", result)
        LOG.info("published start model %s", result.model_digest)


def _publish(
    store: ObjectStore,
    config: InitJobConfig,
    state: ModelState,
    metrics: Metrics,
    clock: Clock,
    signer: Signer | None,
) -> JobResult:
    """Publish the start model and return the result to commit."""
    folder = work_folder(config)
    written = write_safetensors(state.encoder, folder / "model.safetensors")
    parts = write_parts(state.parts(), [], folder / "parts.safetensors")
    digest = publish_model(
        store,
        written.path,
        architecture=config.architecture,
        image_size=config.image_size,
        strategy=f"init-{config.init}",
        round_uid=config.round_uid,
        seed=config.optimisation.seed,
        software=software_versions(SOFTWARE),
        created=clock.now(),
        metrics=metrics,
        parts=parts,
        seal=None if signer is None else signer.sign_model,
        digest=written.digest,
    )
    parts_digest = None if parts is None else parts.digest
    return JobResult(round_uid=config.round_uid, model_digest=digest, parts_digest=parts_digest)


def _make(config: InitJobConfig, around: Surroundings) -> tuple[ModelState, Metrics]:
    """Return the start model and its figures."""
    if config.init == "random":
        encoder = create_encoder(config.architecture, config.image_size, config.optimisation.seed)
        return ModelState(encoder_tensors(encoder)), {}
    if config.data is None:
        raise ConfigError("spec.serverDataset is missing: model.parent.init mim needs the server's images")
    unlabelled = config.data.model_copy(update={"task": "none"})
    dataset = load_dataset(unlabelled, config.image_size, log_loading(around.clock))
    trained = pretrain(config, dataset, around)
    return trained.state, trained.metrics


if __name__ == "__main__":
    sys.exit(run_job(partial(main, clock=Clock()), SERVICE, os.environ, Path(contract.TERMINATION_LOG)))
