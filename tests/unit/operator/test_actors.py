"""Actors: one look at a time, woken looks are not lost, errors are waited out, cleaning excludes looking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from umim.errors import StoreError
from umim_operator import actors
from umim_operator.actors import Actors, Everything, Outlook
from umim_operator.executor import Executor
from umim_operator.kube import ConflictError, KubeError

LIMIT = 20.0
HOUR = timedelta(hours=1)


class Script(Executor):
    """An executor whose looks follow a script, and that tells when they begin."""

    def __init__(self, *steps: Callable[[], timedelta | None]) -> None:
        self.steps = list(steps)
        self.looks = 0
        self.cleaned = 0
        self.left = 0
        self.outlook = Outlook()
        self.busy = threading.Lock()
        self.begun = threading.Semaphore(0)

    def reconcile(self, namespace: str, name: str) -> Outlook:
        assert (namespace, name) == ("ns", "name")
        assert self.busy.acquire(blocking=False), "two looks at once"
        try:
            self.looks += 1
            self.begun.release()
            step = self.steps.pop(0) if self.steps else lambda: HOUR
            return replace(self.outlook, again=step())
        finally:
            self.busy.release()

    def clean(self, namespace: str, name: str) -> bool:
        assert (namespace, name) == ("ns", "name")
        assert self.busy.acquire(blocking=False), "cleaned during a look"
        try:
            self.cleaned += 1
            return self.left == 0
        finally:
            self.busy.release()

    async def look(self) -> None:
        """Wait until one more look has begun."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=LIMIT), "no look"


class Flag:
    """kopf's stop flag."""

    def __init__(self) -> None:
        self.up = False

    def __bool__(self) -> bool:
        return self.up


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "SHORTEST_PAUSE_SECONDS", 0.0)


def raising(error: Exception) -> Callable[[], timedelta | None]:
    def step() -> timedelta | None:
        raise error

    return step


def waiting(release: threading.Event) -> Callable[[], timedelta | None]:
    def step() -> timedelta | None:
        assert release.wait(LIMIT), "never released"
        return HOUR

    return step


def play(script: Script, scene: Callable[[Actors, asyncio.Task[None]], object]) -> None:
    """Keep a round ``uid`` by the script while the scene, a coroutine function, goes on; then stop."""

    async def run() -> None:
        made, stopped = Actors(script), Flag()
        task = asyncio.create_task(made.keep("uid", "ns", "name", stopped))
        try:
            awaitable = scene(made, task)
            assert asyncio.iscoroutine(awaitable)
            await asyncio.wait_for(awaitable, LIMIT)
        finally:
            stopped.up = True
            made.wake("uid")
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(run())


def test_a_new_round_is_looked_at_without_being_woken() -> None:
    script = Script()

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        assert len(made) == 1

    play(script, scene)


def test_a_round_is_looked_at_again_when_it_is_due() -> None:
    script = Script(lambda: timedelta(milliseconds=1))

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        await script.look()

    play(script, scene)


def test_waking_makes_it_look_again_before_it_is_due() -> None:
    script = Script()

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        made.wake("another")
        made.wake("uid")
        await script.look()

    play(script, scene)


def test_being_woken_during_a_look_is_not_lost_and_many_times_count_once() -> None:
    release = threading.Event()
    script = Script(waiting(release))

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        for _ in range(10):
            made.wake("uid")
        release.set()
        await script.look()
        assert await made.clean("uid", "ns", "name")
        await task
        assert script.looks == 2

    play(script, scene)


@pytest.mark.parametrize("error", [KubeError(500, "down"), StoreError("down"), ValueError("a defect")])
def test_an_error_is_waited_out_and_then_it_looks_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "FIRST_BACKOFF_SECONDS", 0.001)
    script = Script(raising(error), raising(error))

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        for _ in range(3):
            await script.look()

    play(script, scene)


def test_backoff_doubles_up_to_its_longest_and_starts_anew_after_success() -> None:
    made = Actors(Script())
    actor = actors._Actor()
    error = KubeError(500, "down")
    assert [made._backoff(actor, "ns/name", error) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert asyncio.run(made._look(actor, "ns", "name")) == actors.LONGEST_SLEEP_SECONDS
    assert made._backoff(actor, "ns/name", error) == 1


def test_a_conflict_is_looked_at_again_at_once_and_is_no_failure() -> None:
    script = Script(raising(ConflictError(409, "changed")))

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        await script.look()

    play(script, scene)


def test_cleaning_waits_for_the_look_that_runs_and_ends_the_actor() -> None:
    release = threading.Event()
    script = Script(waiting(release))

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        cleaning = asyncio.create_task(made.clean("uid", "ns", "name"))
        await asyncio.sleep(0)
        assert script.cleaned == 0
        release.set()
        assert await cleaning
        await task
        assert (script.looks, script.cleaned, len(made)) == (1, 1, 0)

    play(script, scene)


def test_a_round_that_is_not_clean_yet_keeps_its_closed_actor() -> None:
    script = Script()
    script.left = 1

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        assert not await made.clean("uid", "ns", "name")
        await task
        assert len(made) == 1
        script.left = 0
        assert await made.clean("uid", "ns", "name")
        assert (len(made), script.looks) == (0, 1)

    play(script, scene)


def woken(made: Actors) -> bool:
    return made._actors["uid"].woken.is_set()


def test_a_changed_generation_of_a_hospital_wakes_those_to_whom_it_matters() -> None:
    script = Script()
    script.outlook = Outlook(hospitals={"hospital-a.ct"})

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        await settled(made)
        assert made.hospital_seen("a", "hospital-a.ct", 1)
        await script.look()
        await settled(made)
        assert not made.hospital_seen("a", "hospital-a.ct", 1)
        assert not woken(made), "its status has changed, its consent has not"
        assert made.hospital_seen("b", "hospital-b.ct", 1)
        assert not woken(made), "the round does not name it"
        assert made.hospital_seen("a", "hospital-a.ct", None)
        await script.look()
        assert not made.hospital_seen("a", "hospital-a.ct", None)

    play(script, scene)


def test_a_selector_is_woken_by_every_hospital() -> None:
    assert "hospital-x.ct" in Everything()


def test_a_new_model_wakes_only_those_that_wait_for_one() -> None:
    script = Script()
    script.outlook = Outlook(models=True)

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        await settled(made)
        script.outlook = Outlook(models=False)
        made.model_seen()
        await script.look()
        await settled(made)
        made.model_seen()
        assert not woken(made)

    play(script, scene)


def test_an_actor_that_has_not_looked_yet_is_woken_by_everything() -> None:
    outlook = actors._Actor().outlook
    assert outlook.models
    assert "hospital-a.ct" in outlook.hospitals


def test_what_people_change_wakes_and_what_the_operator_writes_does_not() -> None:
    script = Script()

    async def scene(made: Actors, task: asyncio.Task[None]) -> None:
        await script.look()
        made.changed("uid", (1, None))
        await script.look()
        await settled(made)
        made.changed("uid", (1, None))
        assert not woken(made), "only the status has changed"
        made.changed("uid", (2, None))
        await script.look()

    play(script, scene)


def test_only_so_many_look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "LOOKS_AT_ONCE", 1)
    first, second = threading.Event(), threading.Event()

    class Two(Executor):
        def __init__(self) -> None:
            self.begun: list[str] = []

        def reconcile(self, namespace: str, name: str) -> Outlook:
            assert namespace == "ns"
            self.begun.append(name)
            assert {"a": first, "b": second}[name].wait(LIMIT), "never released"
            return Outlook(HOUR)

    async def run() -> None:
        script, stopped = Two(), Flag()
        made = Actors(script)
        tasks = [asyncio.create_task(made.keep(name, "ns", name, stopped)) for name in ("a", "b")]
        while not script.begun:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert script.begun == ["a"]
        first.set()
        while len(script.begun) < 2:
            await asyncio.sleep(0.001)
        second.set()
        stopped.up = True
        for name in ("a", "b"):
            made.wake(name)
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)

    asyncio.run(run())


def test_the_time_from_being_woken_to_the_look_is_told() -> None:
    script, waits = Script(), list[float]()

    async def run() -> None:
        made, stopped = Actors(script, waits.append), Flag()
        task = asyncio.create_task(made.keep("uid", "ns", "name", stopped))
        await script.look()
        await settled(made)
        assert waits == [], "nothing had woken it"
        made.wake("uid")
        await script.look()
        stopped.up = True
        made.wake("uid")
        await asyncio.wait_for(task, LIMIT)

    asyncio.run(run())
    assert len(waits) == 1
    assert 0 <= waits[0] < LIMIT


@pytest.mark.parametrize(
    ("took", "delay", "pause"),
    [(0.0, 60.0, 0.3), (0.1, 60.0, 0.2), (0.5, 60.0, 0.0), (3.0, 60.0, 2.0), (3.0, 0.0, 0.0), (60.0, 60.0, 5.0)],
)
def test_looks_have_a_pause_between_them_and_long_ones_leave_room(took: float, delay: float, pause: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "SHORTEST_PAUSE_SECONDS", 0.3)
        assert actors._pause(took, delay) == pytest.approx(pause)


async def settled(made: Actors) -> None:
    """Wait until the look is over and the actor sleeps."""
    actor = made._actors["uid"]
    async with actor.lock:
        await asyncio.sleep(0)
