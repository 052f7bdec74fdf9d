"""The operator may be killed at any moment: no finished update is made again."""

from __future__ import annotations

from typing import Any

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import OPERATOR, PREFIX, Platform
from hack.testenv.rounds import RANDOM, Round
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.cases import CASES
from tests.e2e.chaos.rows import assert_nothing_lost
from tests.e2e.chaos.world import World
from tests.e2e.conftest import Launch

pytestmark = pytest.mark.alone("it kills the operator")

Object = dict[str, Any]


def _attempts(round_: Round) -> dict[str, tuple[int, int]]:
    return {item["name"]: (item["attempt"], item["failures"]) for item in round_.status["sites"]}


def _uids(round_: Round) -> set[str]:
    return {job["metadata"]["uid"] for job in round_.jobs()}


def test_a_round_whose_operator_is_killed_in_every_phase_completes_with_one_attempt_a_job(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("killed", *sites[:2], parent=RANDOM)
    made: set[str] = set()
    for phase in ("Initializing", "Training", "Aggregating", "Complete"):
        round_.wait_phase(phase)
        made |= _uids(round_)
        platform.kill_operator()
    platform.wait_ready(OPERATOR)
    assert set(_attempts(round_).values()) == {(1, 0)}
    assert (round_.status["initialization"]["attempt"], round_.status["aggregation"]["attempt"]) == (1, 1)
    assert len(round_.jobs()) == 4
    assert made == _uids(round_)
    assert round_.secrets() == []


def test_two_operators_at_once_make_every_job_once_and_lose_nothing(world: World) -> None:
    assert_nothing_lost(list(CASES["operator-twice"].run(world)))


def test_a_committed_update_is_not_made_again_after_a_restart(
    platform: Platform, hospitals: Hospitals, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    slow = hospitals.add(f"{PREFIX}-between", gate=True)
    round_ = launch("kill-between", sites[0], slow)
    digest = round_.wait_site(sites[0], "Succeeded")["updateDigest"]
    (job,) = round_.jobs(sites[0].namespace)
    platform.kill_operator()
    hospitals.open_gate(slow)
    round_.wait_phase("Complete")
    assert round_.site(sites[0])["updateDigest"] == digest
    assert [item["metadata"]["uid"] for item in round_.jobs(sites[0].namespace)] == [job["metadata"]["uid"]]
    assert set(_attempts(round_).values()) == {(1, 0)}


def test_updates_that_arrive_while_the_operator_is_away_count(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("away", *sites)
    round_.wait("all launched", lambda status: all(item.get("job") for item in status.get("sites", [{}])))
    platform.scale(OPERATOR, 0)
    try:
        wait_until("all site Jobs ended", lambda: not round_.active_jobs(), 120, round_.dump)
    finally:
        platform.scale(OPERATOR, 1)
    round_.wait_phase("Complete")
    assert set(_attempts(round_).values()) == {(1, 0)}
