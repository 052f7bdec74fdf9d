"""One actor a round or campaign: runs reconcile whenever woken or due, never twice at once. No kopf in here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from umim.errors import UmimError
from umim_operator.kube import ConflictError, KubeError

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.3
"""Between two looks at a resource: changes that come together are looked at together."""
LONG_LOOK_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 5.0
"""What a look takes longer than the first is paused after it, up to the second: a large round leaves others room."""
LONGEST_SLEEP_SECONDS = 300.0
"""The slow timer: a look now and then even if no change was reported."""
LOOKS_AT_ONCE = 6
"""Of all actors of a kind together, whatever the number of processors: it bounds memory and load on the API server."""

_log = logging.getLogger(__name__)


class Stopped(Protocol):
    """kopf's stop flag of a daemon."""

    def __bool__(self) -> bool:
        """Say whether the daemon must end."""
        ...


@dataclass(frozen=True)
class Outlook:
    """What a resource waits for after a look."""

    again: timedelta | None = None
    """When to look again. None: when something changes."""
    hospitals: Container[str] = ()
    """Hospitals, as namespace.name, whose consent matters to it."""
    models: bool = False
    """Whether a new GlobalModel may be what it waits for."""


NOTHING = Outlook()


class Everything(Container[str]):
    """All hospitals: a selector may match any."""

    def __contains__(self, item: object) -> bool:
        return True


class Reconciler(Protocol):
    """What is done for one resource, see ``Executor`` and ``FederationExecutor``."""

    def reconcile(self, namespace: str, name: str) -> Outlook:
        """Look once and do what is next. Returns what it waits for then."""
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
        self.asked: float | None = None
        """Since when it waits for a look that something else than time made necessary."""
        self.took = 0.0
        self.seen: object = None
        self.outlook = Outlook(hospitals=Everything(), models=True)

    def wake(self) -> None:
        if self.asked is None:
            self.asked = time.monotonic()
        self.woken.set()


class Actors:
    """All actors for resources of one kind. In memory only: after a restart every resource gets an actor and a look.

    Not thread-safe: call it on the event loop's thread only.
    """

    def __init__(self, executor: Reconciler, waited: Callable[[float], None] = lambda _: None) -> None:
        """waited: told how long a resource that was woken waited for its look, in seconds."""
        self._executor = executor
        self._waited = waited
        self._turns = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._actors: dict[str, _Actor] = {}
        self._generations: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._actors)

    def wake(self, uid: str) -> None:
        """Make the resource's actor look again, if there is one."""
        actor = self._actors.get(uid)
        if actor is not None:
            actor.wake()

    def changed(self, uid: str, version: object) -> None:
        """Wake the resource's actor when what people write has changed. The status does not count: actors write it."""
        actor = self._actors.get(uid)
        if actor is not None and actor.seen != version:
            actor.seen = version
            actor.wake()

    def hospital_seen(self, uid: str, site: str, generation: int | None) -> bool:
        """Wake those to whom a hospital matters when its spec changed, and say whether it did. None: it is gone.

        Its status changes with every update and does not count.
        """
        if self._generations.get(uid) == generation:
            return False
        if generation is None:
            del self._generations[uid]
        else:
            self._generations[uid] = generation
        for actor in self._actors.values():
            if site in actor.outlook.hospitals:
                actor.wake()
        return True

    def model_seen(self) -> None:
        """Wake those that may wait for a new GlobalModel."""
        for actor in self._actors.values():
            if actor.outlook.models:
                actor.wake()

    async def keep(self, uid: str, namespace: str, name: str, stopped: Stopped) -> None:
        """Reconcile the resource until it is deleted or the operator stops."""
        actor = self._actors.setdefault(uid, _Actor())
        while not stopped and not actor.closed:
            delay = await self._look(actor, namespace, name)
            pause = _pause(actor.took, delay)
            await asyncio.sleep(pause)
            try:
                await asyncio.wait_for(actor.woken.wait(), max(0.0, delay - pause))
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
                actor.outlook = await self._reconcile(actor, namespace, name)
            except ConflictError:
                return 0.0  # somebody else wrote in between: look at once
            except (KubeError, UmimError) as error:
                return self._backoff(actor, f"{namespace}/{name}", error)
            except Exception as error:  # noqa: BLE001 an actor must outlive a defect: it logs and tries again
                _log.exception("reconcile of %s/%s failed", namespace, name)
                return self._backoff(actor, f"{namespace}/{name}", error)
        actor.failures = 0
        again = actor.outlook.again
        return LONGEST_SLEEP_SECONDS if again is None else min(again.total_seconds(), LONGEST_SLEEP_SECONDS)

    async def _reconcile(self, actor: _Actor, namespace: str, name: str) -> Outlook:
        """Look, in a thread, when it is the actor's turn. What wakes it from then on needs another look."""
        async with self._turns:
            started = time.monotonic()
            asked, actor.asked = actor.asked, None
            actor.woken.clear()
            if asked is not None:
                self._waited(started - asked)
            try:
                return await asyncio.to_thread(self._executor.reconcile, namespace, name)
            finally:
                actor.took = time.monotonic() - started

    def _backoff(self, actor: _Actor, name: str, error: Exception) -> float:
        actor.failures += 1
        delay = min(FIRST_BACKOFF_SECONDS * 2.0 ** (actor.failures - 1), LONGEST_BACKOFF_SECONDS)
        _log.warning("reconcile of %s failed, again in %.0f s: %s", name, delay, error)
        return delay


def _pause(took: float, delay: float) -> float:
    """Return the seconds between two looks, however soon something wakes the actor. No delay: there is more to do."""
    long = 0.0 if delay == 0.0 else min(took - LONG_LOOK_SECONDS, LONGEST_PAUSE_SECONDS)
    return max(SHORTEST_PAUSE_SECONDS - took, long, 0.0)
