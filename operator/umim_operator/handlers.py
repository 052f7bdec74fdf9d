"""kopf's entry points: decorators and nothing else. Every path leads to the one reconcile function."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from typing import Any

import kopf

from umim import contract
from umim.api.base import GROUP, VERSION
from umim.metrics import RECONCILE_WAIT
from umim_operator.actors import Actors
from umim_operator.federations.observe import owners
from umim_operator.observe import version
from umim_operator.wiring import build_executors, start_telemetry

CLEANING_LOOKS = 60
"""Looks at what a deleted resource leaves, 0.5 s apart, in one call: Pods end within their grace period."""


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Read the environment, connect the parts and set up kopf itself."""
    settings.persistence.finalizer = contract.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    # No handler asks what changed, and a copy of a large spec would exceed what annotations may hold (256 KiB).
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, ignored_fields=["spec"])
    settings.posting.enabled = False  # events come from the planner
    settings.background.instant_exit_timeout = 0.5
    memo.telemetry = start_telemetry(os.environ, sys.stderr)
    parts = build_executors(os.environ, memo.telemetry)
    memo.hospitals = parts.hospitals
    memo.rounds = Actors(parts.rounds, partial(memo.telemetry.metrics.record, RECONCILE_WAIT))
    memo.federations = Actors(parts.federations)


@kopf.on.cleanup()
def finish(memo: kopf.Memo, **_: Any) -> None:
    """Send what telemetry holds."""
    memo.telemetry.shutdown()


@kopf.daemon(GROUP, VERSION, "federationrounds", cancellation_timeout=5.0)
async def keep(
    memo: kopf.Memo, namespace: str | None, name: str, uid: str, stopped: kopf.DaemonStopped, **_: Any
) -> None:
    """Reconcile one round for as long as it exists, see ``Actors.keep``."""
    await _keep(memo.rounds, uid, namespace or "", name, stopped)


@kopf.daemon(GROUP, VERSION, "federations", cancellation_timeout=5.0)
async def keep_federation(
    memo: kopf.Memo, namespace: str | None, name: str, uid: str, stopped: kopf.DaemonStopped, **_: Any
) -> None:
    """Reconcile one campaign for as long as it exists, see ``Actors.keep``."""
    await _keep(memo.federations, uid, namespace or "", name, stopped)


async def _keep(actors: Actors, uid: str, namespace: str, name: str, stopped: kopf.DaemonStopped) -> None:
    waker = asyncio.create_task(_wake_when_stopped(actors, uid, stopped))
    try:
        await actors.keep(uid, namespace, name, stopped)
    finally:
        waker.cancel()


async def _wake_when_stopped(actors: Actors, uid: str, stopped: kopf.DaemonStopped) -> None:
    """Let a sleeping actor see its stop flag at once."""
    await stopped.wait()
    actors.wake(uid)


# Coroutines, so that they run on the event loop's thread, as the actors do.


@kopf.on.event(GROUP, VERSION, "federationrounds")
async def round_changed(memo: kopf.Memo, uid: str, meta: kopf.Meta, **_: Any) -> None:
    """Wake the actor of the round when people changed it, and that of its campaign in any case."""
    memo.rounds.changed(uid, version(meta))
    for owner in owners(meta):
        memo.federations.wake(owner)


@kopf.on.event(GROUP, VERSION, "federations")
async def federation_changed(memo: kopf.Memo, uid: str, **_: Any) -> None:
    """Wake the campaign's actor."""
    memo.federations.wake(uid)


@kopf.on.event("batch", "v1", "jobs", labels={contract.LABEL_ROUND_UID: kopf.PRESENT})
async def job_changed(memo: kopf.Memo, labels: kopf.Labels, **_: Any) -> None:
    """Wake the actor of the round that the Job belongs to."""
    memo.rounds.wake(labels[contract.LABEL_ROUND_UID])


@kopf.on.event(GROUP, VERSION, "hospitals")
async def hospital_changed(
    memo: kopf.Memo, uid: str, namespace: str | None, name: str, meta: kopf.Meta, type: str | None, **_: Any
) -> None:
    """Wake the rounds of a hospital when its consent may have changed."""
    site = f"{namespace}.{name}"
    generation = None if type == "DELETED" else meta.get("generation")
    if memo.rounds.hospital_seen(uid, site, generation):
        memo.hospitals.forget(site)


@kopf.on.event(GROUP, VERSION, "globalmodels")
async def model_changed(memo: kopf.Memo, type: str | None, **_: Any) -> None:
    """Wake every round that may wait for the model that appears."""
    if type == "ADDED":
        memo.rounds.model_seen()


@kopf.on.delete(GROUP, VERSION, "federationrounds")
async def clean(memo: kopf.Memo, namespace: str | None, name: str, uid: str, **_: Any) -> None:
    """Clean up what owner references cannot: they do not cross namespaces."""
    await _clean(memo.rounds, uid, namespace or "", name)


@kopf.on.delete(GROUP, VERSION, "federations")
async def clean_federation(memo: kopf.Memo, namespace: str | None, name: str, uid: str, **_: Any) -> None:
    """Delete the rounds before their campaign, so that its name is free when it is gone."""
    await _clean(memo.federations, uid, namespace or "", name)


async def _clean(actors: Actors, uid: str, namespace: str, name: str) -> None:
    for _look in range(CLEANING_LOOKS):
        if await actors.clean(uid, namespace, name):
            return
        await asyncio.sleep(0.5)
    raise kopf.TemporaryError("what belongs to it is still ending", delay=5)


@kopf.on.probe(id="rounds")
def rounds(memo: kopf.Memo, **_: Any) -> int:
    """Report how many rounds have an actor, in the liveness answer."""
    return len(memo.rounds)
