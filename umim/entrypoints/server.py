"""What the Jobs of the server share: live progress, the federation's key, and checkpoints that outlive the Pod."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from umim import contract
from umim.api.jobs import AggregateJobConfig, InitJobConfig
from umim.api.round import Progress
from umim.artifacts.manifests import read_job_result
from umim.artifacts.mirror import Mirror
from umim.artifacts.signing import Signer
from umim.artifacts.store import ObjectStore
from umim.progress import ProgressPublisher
from umim.settings import RedisSettings
from umim.telemetry import Telemetry
from umim.training.checkpoint import FILES
from umim.training.reporter import Clock, ProgressSink, log_progress
from umim.training.site import Surroundings, remove_work, work_folder


def progress_sink(
    env: Mapping[str, str], round_uid: str, role: contract.Role, tracing: Telemetry, clock: Clock
) -> ProgressSink:
    """Return what tells live reports to the log, to Redis and to the metrics."""
    stream = contract.progress_stream(round_uid, role)
    publisher = ProgressPublisher(RedisSettings.from_env(env), stream, clock.monotonic)

    def sink(progress: Progress) -> None:
        log_progress(progress)
        publisher.publish(progress, last=progress.step == progress.steps)
        tracing.metrics.record_training("server", progress.images_per_second, progress.loss)

    return sink


def federation_signer(folder: Path) -> Signer | None:
    """Return what signs the federation's models; None where no key is mounted at ``folder``. Raises ConfigError."""
    path = folder / contract.SIGNING_FILE
    return Signer.from_pem(path) if path.is_file() else None


@contextmanager
def kept_checkpoints(
    store: ObjectStore, config: InitJobConfig | AggregateJobConfig, role: contract.Role, around: Surroundings
) -> Iterator[Surroundings]:
    """Fetch the checkpoints of an earlier Pod, and keep new ones in the store while the block runs.

    When the Job's result is committed by its end, they are removed, and the local work folder with them.
    """
    prefix = contract.checkpoint_prefix(config.round_uid, role)
    mirror = Mirror(store, prefix, FILES, around.clock.monotonic)
    mirror.restore(work_folder(config))
    yield replace(around, saved=mirror.save)
    if read_job_result(store, config.round_uid, role) is not None:
        mirror.clear()
        remove_work(work_folder(config))
