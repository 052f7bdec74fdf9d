"""kopf's entry points: decorators and nothing else. Every path leads to the one reconcile function."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import kopf

from umim import contract
from umim.api.base import GROUP, VERSION
from umim_operator.actors import Actors
from umim_operator.federations.observe import owners
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
    rounds, federations = build_executors(os.environ, memo.telemetry)
    memo.rounds, memo.federations = Actors(rounds), Actors(federations)


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


@kopf.on.event(GROUP, VERSION, "federationrounds")
def round_changed(memo: kopf.Memo, uid: str, meta: kopf.Meta, **_: Any) -> None:
    """Wake the actor of the round and that of its campaign."""
    memo.rounds.wake(uid)
    for owner in owners(meta):
        memo.federations.wake(owner)


@kopf.on.event(GROUP, VERSION, "federations")
def federation_changed(memo: kopf.Memo, uid: str, **_: Any) -> None:
    """Wake the campaign's actor."""
    memo.federations.wake(uid)


@kopf.on.event("batch", "v1", "jobs", labels={contract.LABEL_ROUND_UID: kopf.PRESENT})
def job_changed(memo: kopf.Memo, labels: kopf.Labels, **_: Any) -> None:
    """Wake the actor of the round that the Job belongs to."""
    memo.rounds.wake(labels[contract.LABEL_ROUND_UID])


@kopf.on.event(GROUP, VERSION, "hospitals")
def hospital_changed(memo: kopf.Memo, uid: str, meta: kopf.Meta, type: str | None, **_: Any) -> None:
    """Wake every round when a hospital's consent may have changed."""
    memo.rounds.hospital_seen(uid, None if type == "DELETED" else meta.get("generation"))


@kopf.on.event(GROUP, VERSION, "globalmodels")
def model_changed(memo: kopf.Memo, type: str | None, **_: Any) -> None:
    """Wake every round when a model that it may wait for appears."""
    if type == "ADDED":
        memo.rounds.wake_all()


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
