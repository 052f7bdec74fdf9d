"""Suspension stops the Jobs and loses nothing."""

from __future__ import annotations

from hack.testenv.hospitals import Site
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch

LONG = {"epochs": 600}


def _wait_stopped(round_: Round) -> None:
    wait_until("no Pod runs", lambda: not round_.active_jobs() and not _running(round_), 60, round_.dump)


def _running(round_: Round) -> list[str]:
    return [pod["metadata"]["name"] for pod in round_.pods() if pod["status"].get("phase") in ("Pending", "Running")]


def test_a_round_suspended_in_training_goes_on_from_its_checkpoints(
    launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("suspended", *sites[:2], training=LONG)
    round_.wait("an epoch at both sites", lambda _: all(_epoch(round_, site) >= 1 for site in sites[:2]))
    started = round_.status["startTime"]
    round_.set(suspend=True)
    round_.wait_phase("Suspended")
    assert round_.condition("Suspended")["status"] == "True"
    _wait_stopped(round_)
    assert round_.secrets() == []
    seen = {site: round_.reports(site) for site in sites[:2]}
    round_.set(suspend=False)
    round_.wait_phase("Complete")
    for site, before in seen.items():
        assert min(report.epoch for report in round_.reports(site)[len(before) :]) >= 1, "an epoch is not trained again"
    assert {item["failures"] for item in round_.status["sites"]} == {0}
    assert {item["attempt"] for item in round_.status["sites"]} == {2}
    assert round_.condition("Suspended")["reason"] == "Resumed"
    assert round_.status["startTime"] > started


def test_a_round_that_is_created_suspended_waits(launch: Launch, sites: tuple[Site, Site, Site]) -> None:
    round_ = launch("created-suspended", sites[2], suspend=True)
    round_.wait_phase("Suspended")
    assert round_.condition("Accepted")["status"] == "True"
    assert round_.jobs() == []
    round_.set(suspend=False)
    round_.wait_phase("Complete")
    assert round_.site(sites[2])["attempt"] == 1


def test_a_round_suspended_in_aggregation_publishes_after_it(launch: Launch, sites: tuple[Site, Site, Site]) -> None:
    round_ = launch("suspended-late", sites[2])
    round_.wait_phase("Aggregating")
    digests = [item["updateDigest"] for item in round_.status["sites"]]
    round_.set(suspend=True)
    round_.wait_phase("Suspended")
    _wait_stopped(round_)
    round_.set(suspend=False)
    round_.wait_phase("Complete")
    assert [item["updateDigest"] for item in round_.status["sites"]] == digests
    assert round_.status["aggregation"]["failures"] == 0


def _epoch(round_: Round, site: Site) -> int:
    return max((report.epoch for report in round_.reports(site)), default=0)
