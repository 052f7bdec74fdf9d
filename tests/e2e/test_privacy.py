"""A hospital with a privacy budget: its rounds train by DP-SGD, its ledger counts, and the budget holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.testenv.hospitals import NAME, Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round
from tests.e2e.conftest import Launch

LONG = {"epochs": 40}
"""Seconds of training, so that a fault hits it."""
NOISE = 3.0
FLOOR = {"minNoiseMultiplier": NOISE, "epsilonBudget": 9}
"""One training of ``LONG`` spends 7.8, two spend 11.7."""


@pytest.fixture(scope="module")
def private(hospitals: Hospitals) -> Site:
    """A hospital that demands DP-SGD of every round."""
    return hospitals.add(f"{PREFIX}-private", {"privacy": {"differentialPrivacy": FLOOR}}, seed=31)


@pytest.fixture(scope="module")
def first(launch: Launch, private: Site, sites: tuple[Site, Site, Site]) -> Round:
    """A round that asks for no privacy, over the private hospital, whose Pod is killed while it trains, and another."""
    made = launch("private-1", private, sites[0], training=LONG)
    made.wait("an epoch", lambda _: any(report.epoch >= 1 for report in made.reports(private)))
    made.kill_site(private)
    made.wait_phase("Complete")
    return made


def entered(private: Site) -> list[dict[str, Any]]:
    """The hospital's own ledger, which counts."""
    path = private.folder / "work/privacy" / private.name / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_that_was_killed_goes_on_and_spends_epsilon_once(
    platform: Platform, first: Round, private: Site, sites: tuple[Site, Site, Site]
) -> None:
    assert first.site(private)["attempt"] == 2
    (line,) = entered(private)
    assert (line["roundUid"], line["noiseMultiplier"]) == (first.uid, NOISE)
    status = platform.api.get("Hospital", private.namespace, NAME)["status"]
    record = status["lastParticipation"]["differentialPrivacy"]
    assert (record["noiseMultiplier"], record["steps"]) == (NOISE, line["steps"])
    assert status["epsilonSpent"] == record["epsilonSpent"] == record["epsilon"] == pytest.approx(7.8, abs=0.1)
    other = platform.api.get("Hospital", sites[0].namespace, NAME)["status"]["lastParticipation"]
    assert "differentialPrivacy" not in other


def test_the_training_that_would_exceed_the_budget_is_refused_before_it_starts(
    platform: Platform, launch: Launch, first: Round, private: Site, sites: tuple[Site, Site, Site]
) -> None:
    before = platform.api.get("Hospital", private.namespace, NAME)["status"]
    second = launch("private-2", private, sites[0], quorum=1, training={**LONG, "seed": 2})
    second.wait_phase("Complete")
    refused = second.site(private)
    assert (refused["phase"], refused["reason"], refused["attempt"]) == ("Failed", "PrivacyBudgetExceeded", 1)
    assert "epsilonBudget of the Hospital is 9 at delta 1e-05" in refused["message"]
    assert second.contributors() == [sites[0].name]
    assert [key for key in second.objects() if private.name in key] == []
    assert entered(private)[-1]["roundUid"] == first.uid
    assert platform.api.get("Hospital", private.namespace, NAME)["status"] == before
    shown = platform.run_kubectl("describe", "fround", second.name, "-n", FEDERATION)
    assert "PrivacyBudgetExceeded" in shown


def test_a_round_with_more_noise_still_fits_into_the_budget(platform: Platform, launch: Launch, private: Site) -> None:
    terms = {"epochs": 1, "differentialPrivacy": {"noiseMultiplier": 10.0}}
    made = launch("private-3", private, training=terms)
    made.wait_phase("Complete")
    status = platform.api.get("Hospital", private.namespace, NAME)["status"]
    assert status["lastParticipation"]["differentialPrivacy"]["noiseMultiplier"] == 10.0
    assert 7.8 < status["epsilonSpent"] < FLOOR["epsilonBudget"]
