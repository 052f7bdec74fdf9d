"""Connects the operator's parts from the environment. Called once at start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

import umim
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.progress import ProgressReader
from umim.settings import TelemetrySettings
from umim.telemetry import Telemetry, setup_logging, start
from umim_operator.config import OperatorConfig
from umim_operator.credentials import Mint
from umim_operator.executor import Executor
from umim_operator.federations.executor import FederationExecutor
from umim_operator.kube import Kube, load_client

SERVICE = "umim-operator"
CHATTY_LOGGERS = ("kopf.objects", "kopf.activities.probe", "aiohttp.access")
"""They say at INFO that a handler or a probe was called, once an event."""


def start_telemetry(env: Mapping[str, str], stream: TextIO) -> Telemetry:
    """Start logs, traces and metrics."""
    setup_logging(SERVICE, stream, logging.INFO)
    for chatty in CHATTY_LOGGERS:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)


def build_executors(env: Mapping[str, str], telemetry: Telemetry) -> tuple[Executor, FederationExecutor]:
    """Return the executors of rounds and of campaigns. Raises ConfigError naming the variable that is wrong."""
    config = OperatorConfig.from_env(env)
    progress = ProgressReader(config.redis) if config.redis is not None else None
    kube = Kube(load_client())
    rounds = Executor(
        kube=kube,
        store=MinioStore.from_settings(config.store, RetryPolicy(attempts=3), telemetry.metrics.count_store_bytes),
        mint=Mint(config.store, progress),
        progress=progress,
        telemetry=telemetry,
        defaults=config.jobs,
        clock=_now,
    )
    return rounds, FederationExecutor(kube, _now)


def _now() -> datetime:
    return datetime.now(UTC)
