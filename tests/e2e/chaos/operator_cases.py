"""The operator is killed, restarted, or runs twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hack.testenv.images import write_textures
from hack.testenv.platform import FEDERATION, OPERATOR
from hack.testenv.rounds import RANDOM
from hack.testenv.volumes import federation_volume
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import FOLDER, Row
from tests.e2e.chaos.world import END_SECONDS, SHORT, Trial, Twin, World, stamp

PROCESS = "kopf"


def _in_every_phase(world: World, name: str) -> dict[str, Trial]:
    """Return rounds that are in different phases at this very moment, by phase."""
    trials = {"Complete": world.launch(f"{name}-complete", training=SHORT)}
    trials["Suspended"] = world.launch(f"{name}-suspended", training=SHORT)
    trials["Suspended"].round.wait_phase("Training")
    trials["Suspended"].round.set(suspend=True)
    trials["Complete"].round.wait_phase("Complete")
    trials["Aggregating"] = world.launch(f"{name}-aggregating", training=SHORT)
    trials["Training"] = world.launch(f"{name}-training")
    trials["Training"].round.wait_phase("Training")
    trials["Aggregating"].round.wait_phase("Aggregating")
    trials["Initializing"] = world.launch(f"{name}-initializing", parent=RANDOM)
    trials["Initializing"].round.wait_phase("Initializing")
    trials["Pending"] = world.launch(f"{name}-pending", training=SHORT)
    return trials


def _hit(world: World, name: str, fault: str, hand: Callable[[], None]) -> list[Row]:
    """Let a hand hit the operator while rounds are in all phases, and judge each of them against a run without it."""
    plain = _calm(world)
    trials, before, resumed = _run(world, name, hand)
    assert set(before.values()) >= {"Complete", "Suspended", "Training", "Aggregating"}, before
    seconds = _durations(trials, before, resumed)
    return [
        replace(
            world.complete(trial, case=name, fault=fault, phase=before[phase], twin=_twin(world, phase)),
            recovery_s=round(max(0.0, seconds[phase] - plain[phase]), 1),
        )
        for phase, trial in trials.items()
    ]


def _calm(world: World) -> dict[str, float]:
    """Return how long the same rounds take beside each other when nothing hits the operator."""
    path = FOLDER / "calm.json"
    if not path.exists():
        seconds = _durations(*_run(world, "operator-calm", lambda: None))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seconds))
    found: dict[str, float] = json.loads(path.read_text())
    return found


def _twin(world: World, phase: str) -> Twin:
    if phase == "Initializing":
        return world.twin("random", parent=RANDOM)
    return world.twin() if phase == "Training" else world.twin("short", training=SHORT)


def _run(world: World, name: str, hand: Callable[[], None]) -> tuple[dict[str, Trial], dict[str, str], float]:
    """Return rounds that a hand has hit, by wanted phase; their phases before; when the suspended one was resumed."""
    trials = _in_every_phase(world, name)
    before = {phase: trial.round.status.get("phase", "Pending") for phase, trial in trials.items()}
    hand()
    world.wait_operator()
    resumed = time.time()
    trials["Suspended"].round.set(suspend=False)
    for trial in trials.values():
        trial.round.wait_phase("Complete", END_SECONDS)
    return trials, before, resumed


def _durations(trials: dict[str, Trial], _: dict[str, str], resumed: float) -> dict[str, float]:
    """Return how long each round took; that of the suspended one counts from when it was resumed."""
    found = {phase: trial.duration for phase, trial in trials.items()}
    return found | {"Suspended": stamp(trials["Suspended"].round.status["completionTime"]) - resumed}


@case("operator-sigkill", alone=True)
def sigkill(world: World) -> list[Row]:
    """The operator's process is killed; the kubelet starts it again."""
    return _hit(
        world,
        "operator-sigkill",
        "operator killed (SIGKILL)",
        lambda: world.process("operator", PROCESS).send(signal.SIGKILL),
    )


@case("operator-restart", alone=True)
def restart(world: World) -> list[Row]:
    """A rollout: the old operator is asked to end, then a new one starts."""
    return _hit(world, "operator-restart", "operator restarted (rollout, SIGTERM)", world.platform.restart_operator)


CLAIM = "chaos"
POOL = {"claimName": CLAIM, "path": "pool.npz", "format": "npz", "task": "none"}
DISTILLED: dict[str, Any] = {
    "training": {"epochs": 1},
    "serverDataset": POOL,
    "distillation": {"epochs": 60, "batchSize": 8},
}


@case("distilling", alone=True)
def distilling(world: World) -> list[Row]:
    """Operator and aggregator are killed while the server distils."""
    with TemporaryDirectory(prefix="umim-chaos-") as folder:
        Path(folder).chmod(0o755)
        write_textures(Path(folder) / POOL["path"], 24, seed=11)
        with federation_volume(world.platform, CLAIM, Path(folder)):
            rows = [_distilling(world, hand) for hand in ("operator", "aggregator")]
            world.remove_rounds()
            return rows


def _distilling(world: World, victim: str) -> Row:
    twin = world.twin("distilled", **DISTILLED)
    world.forget_models()
    trial = world.launch(f"distilling-{victim}", **DISTILLED)
    trial.round.wait("distillation", lambda status: (status.get("aggregation") or {}).get("progress"))
    operator = victim == "operator"
    found = world.process("operator", PROCESS) if operator else world.job_process(trial, "aggregate", FEDERATION)
    found.send(signal.SIGKILL)
    fault = f"{victim} killed (SIGKILL)"
    return world.complete(trial, case="distilling", fault=fault, phase="Aggregating (distillation)", twin=twin)


@case("operator-twice", alone=True)
def twice(world: World) -> list[Row]:
    """Two operators run beside each other for a whole round; one of them is killed again and again."""
    platform, twin = world.platform, world.twin("short", training=SHORT)
    platform.scale(OPERATOR, 2)
    try:
        trials = [world.launch(f"operator-twice-{number}", training=SHORT) for number in (1, 2)]
        trials[0].round.wait_phase("Training")
        for _ in range(3):
            world.process("operator", PROCESS).send(signal.SIGKILL)
            time.sleep(3)
        rows = [
            world.complete(
                trial,
                case="operator-twice",
                fault="two operators at once" + (", one killed three times" if trial is trials[0] else ""),
                phase="all",
                twin=twin,
            )
            for trial in trials
        ]
        for trial in trials:
            _assert_single(trial)
        return rows
    finally:
        platform.scale(OPERATOR, 1)


def _assert_single(trial: Trial) -> None:
    """Every Job was made once and every update was counted once."""
    status = trial.round.status
    assert {(item["attempt"], item["failures"]) for item in status["sites"]} == {(1, 0)}, trial.round.dump()
    assert len(trial.round.jobs()) == len(trial.sites) + 1, trial.round.dump()
    for site in trial.sites:
        body = trial.round.platform.api.get("Hospital", site.namespace, site.reference["name"])
        mine = [item for item in body["status"]["ledger"] if item["roundUid"] == trial.round.uid]
        assert len(mine) == 1, mine


@case("operator-away", alone=True)
def away(world: World) -> list[Row]:
    """No operator at all while the hospitals train and commit."""
    world.twin()
    trial = world.launch("operator-away")
    trial.round.wait_phase("Training")
    trial.round.wait("all launched", lambda status: all(item.get("job") for item in status["sites"]))
    begin = time.monotonic()
    world.platform.scale(OPERATOR, 0)
    try:
        wait_until("all site Jobs ended", lambda: not trial.round.active_jobs(), 180, trial.round.dump)
    finally:
        world.platform.scale(OPERATOR, 1)
    took = time.monotonic() - begin
    fault = "operator away until all hospitals have committed"
    return [world.complete(trial, case="operator-away", fault=fault, phase="Training", fault_seconds=took)]
