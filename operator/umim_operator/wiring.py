"""Connects the operator's parts from the environment. Called once at start."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import umim
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.progress import ProgressReader
from umim.settings import TelemetrySettings
from umim.telemetry import Telemetry, setup_logging, start
from umim_operator.actors import LOOKS_AT_ONCE
from umim_operator.config import OperatorConfig
from umim_operator.credentials import Mint
from umim_operator.executor import ACTIONS_AT_ONCE, Executor
from umim_operator.federations.executor import FederationExecutor
from umim_operator.hospitals import Hospitals
from umim_operator.kube import Kube, load_client
from umim_operator.measures import Measures

SERVICE = "umim-operator"
CHATTY_LOGGERS = ("kopf.objects", "kopf.activities.probe", "aiohttp.access")
"""They say at INFO that a handler or a probe was called, once an event."""


def start_telemetry(env: Mapping[str, str], stream: TextIO) -> Telemetry:
    """Start logs, traces and metrics."""
    setup_logging(SERVICE, stream, logging.INFO)
    for chatty in CHATTY_LOGGERS:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return start(TelemetrySettings.from_env(env), SERVICE, umim.__version__)


@dataclass(frozen=True)
class Parts:
    """What the handlers call."""

    rounds: Executor
    federations: FederationExecutor
    hospitals: Hospitals


def build_executors(env: Mapping[str, str], telemetry: Telemetry) -> Parts:
    """Connect the executors of rounds and of campaigns. Raises ConfigError naming the variable that is wrong."""
    config = OperatorConfig.from_env(env)
    progress = ProgressReader(config.redis) if config.redis is not None else None
    kube = Kube(load_client(LOOKS_AT_ONCE + ACTIONS_AT_ONCE))
    hospitals = Hospitals(kube, time.monotonic)
    measures = Measures(telemetry, _now)
    count = telemetry.metrics.store_counter("operator")
    rounds = Executor(
        kube=kube,
        hospitals=hospitals,
        store=MinioStore.from_settings(config.store, RetryPolicy(attempts=3), count),
        mint=Mint(config.store, progress),
        progress=progress,
        measures=measures,
        defaults=config.jobs,
        clock=_now,
    )
    return Parts(rounds, FederationExecutor(kube, measures, _now), hospitals)


def _now() -> datetime:
    return datetime.now(UTC)
