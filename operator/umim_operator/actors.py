"""One actor a round or campaign: runs reconcile whenever woken or due, never twice at once. No kopf in here."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from typing import Protocol

from umim.errors import UmimError
from umim_operator.kube import ConflictError, KubeError

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.3
"""Between two looks at a resource: changes that come together are looked at together."""
LONGEST_SLEEP_SECONDS = 300.0
"""The slow timer: a look now and then even if no change was reported."""

_log = logging.getLogger(__name__)


class Stopped(Protocol):
    """kopf's stop flag of a daemon."""

    def __bool__(self) -> bool:
        """Say whether the daemon must end."""
        ...


class Reconciler(Protocol):
    """What is done for one resource, see ``Executor`` and ``FederationExecutor``."""

    def reconcile(self, namespace: str, name: str) -> timedelta | None:
        """Look once and do what is next. Returns when to look again; None: when something changes."""
        ...

    def clean(self, namespace: str, name: str) -> bool:
        """Remove what a deleted resource leaves. Returns whether nothing is left."""
        ...


class _Actor:
    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.lock = asyncio.Lock()
        self.closed = False
        self.failures = 0


class Actors:
    """All actors for resources of one kind. In memory only: after a restart every resource gets an actor and a look."""

    def __init__(self, executor: Reconciler) -> None:
        self._executor = executor
        self._actors: dict[str, _Actor] = {}
        self._generations: dict[str, int | None] = {}

    def __len__(self) -> int:
        return len(self._actors)

    def wake(self, uid: str) -> None:
        """Make the resource's actor look again, if there is one."""
        actor = self._actors.get(uid)
        if actor is not None:
            actor.woken.set()

    def wake_all(self) -> None:
        """Make every actor look again."""
        for actor in self._actors.values():
            actor.woken.set()

    def hospital_seen(self, uid: str, generation: int | None) -> None:
        """Wake all when a hospital's spec changed; its status changes with every update and does not count."""
        if self._generations.get(uid) != generation:
            self._generations[uid] = generation
            self.wake_all()

    async def keep(self, uid: str, namespace: str, name: str, stopped: Stopped) -> None:
        """Reconcile the resource until it is deleted or the operator stops."""
        actor = self._actors.setdefault(uid, _Actor())
        while not stopped and not actor.closed:
            actor.woken.clear()
            started = time.monotonic()
            delay = await self._look(actor, namespace, name)
            await asyncio.sleep(max(0.0, SHORTEST_PAUSE_SECONDS - (time.monotonic() - started)))
            try:
                await asyncio.wait_for(actor.woken.wait(), delay)
            except TimeoutError:
                continue

    async def clean(self, uid: str, namespace: str, name: str) -> bool:
        """Clean up after a deleted resource; its actor never acts again. Returns whether nothing is left."""
        actor = self._actors.setdefault(uid, _Actor())
        async with actor.lock:
            actor.closed = True
            actor.woken.set()
            done = await asyncio.to_thread(self._executor.clean, namespace, name)
        if done:
            self._actors.pop(uid, None)
        return done

    async def _look(self, actor: _Actor, namespace: str, name: str) -> float:
        """Reconcile once. Returns the seconds until the next look unless woken."""
        async with actor.lock:
            if actor.closed:
                return 0.0
            try:
                again = await asyncio.to_thread(self._executor.reconcile, namespace, name)
            except ConflictError:
                return 0.0  # somebody else wrote in between: look at once
            except (KubeError, UmimError) as error:
                return self._backoff(actor, f"{namespace}/{name}", error)
            except Exception as error:  # noqa: BLE001 an actor must outlive a defect: it logs and tries again
                _log.exception("reconcile of %s/%s failed", namespace, name)
                return self._backoff(actor, f"{namespace}/{name}", error)
        actor.failures = 0
        return LONGEST_SLEEP_SECONDS if again is None else min(again.total_seconds(), LONGEST_SLEEP_SECONDS)

    def _backoff(self, actor: _Actor, name: str, error: Exception) -> float:
        actor.failures += 1
        delay = min(FIRST_BACKOFF_SECONDS * 2.0 ** (actor.failures - 1), LONGEST_BACKOFF_SECONDS)
        _log.warning("reconcile of %s failed, again in %.0f s: %s", name, delay, error)
        return delay
