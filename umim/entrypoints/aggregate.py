"""The aggregator Job: ``python -m umim.entrypoints.aggregate``."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import umim
from umim import contract, telemetry
from umim.aggregation.run import aggregate
from umim.api.jobs import AggregateJobConfig
from umim.artifacts.manifests import read_job_result, write_job_result
from umim.artifacts.minio import MinioStore
from umim.artifacts.store import ObjectStore
from umim.entrypoints.runner import run_job
from umim.settings import StoreSettings, TelemetrySettings, job_config

SERVICE = "umim-aggregator"

_log = logging.getLogger(__name__)


def main(env: Mapping[str, str], clock: Callable[[], datetime], work: Path) -> None:
    """Read configuration and settings from ``env`` and aggregate. ``work`` is a folder for the updates."""
    config = job_config(env, AggregateJobConfig)
    tracing = telemetry.start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)
    store = MinioStore.from_settings(StoreSettings.from_env(env), count=tracing.metrics.count_store_bytes)
    try:
        with tracing.span("aggregate", {"umim.round.uid": config.round_uid, "umim.attempt": config.attempt}):
            aggregate_once(store, config, clock, work)
    finally:
        tracing.shutdown()


def aggregate_once(store: ObjectStore, config: AggregateJobConfig, clock: Callable[[], datetime], work: Path) -> None:
    """Aggregate and commit the result, unless an earlier attempt already has."""
    if read_job_result(store, config.round_uid, "aggregate") is not None:
        _log.info("the result of round %s is there already", config.round_uid)
        return
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        result = aggregate(store, config, Path(folder), clock())
    if not write_job_result(store, "aggregate", result):
        _log.info("another attempt committed the result of round %s", config.round_uid)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(
        run_job(
            partial(main, clock=utc_now, work=Path(contract.WORK_MOUNT)),
            SERVICE,
            os.environ,
            Path(contract.TERMINATION_LOG),
        )
    )
