"""The Hospital resource is the consent: without it nothing runs, and withdrawn it stops what runs."""

from __future__ import annotations

from typing import Any

from hack.testenv.hospitals import NAME, Hospitals, Site
from hack.testenv.models import START
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round, round_body
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch


def _nothing_runs(made: Round, site: Site) -> bool:
    return not made.jobs(site.namespace) and not made.pods(site.namespace) and not made.secrets()


def test_a_hospital_that_has_not_opted_in_is_refused_and_trains_once_it_has(
    launch: Launch, hospitals: Hospitals
) -> None:
    site = hospitals.add(f"{PREFIX}-silent", consent=False)
    made = launch("silent", site)
    refused = made.wait_site(site, "Refused")
    assert refused["reason"] == "HospitalNotFound"
    assert "has not opted in" in refused["message"]
    assert made.condition("QuorumReached")["reason"] == "WaitingForConsent"
    assert _nothing_runs(made, site)
    hospitals.join(site)
    (done,) = made.wait_phase("Complete")["sites"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 1, 0)


def test_a_hospital_of_another_federation_is_refused_and_the_round_goes_on(
    launch: Launch, hospitals: Hospitals, sites: tuple[Site, Site, Site]
) -> None:
    site = hospitals.add(f"{PREFIX}-foreign", {"federations": ["other"]})
    made = launch("foreign", sites[0], site, quorum=1)
    status = made.wait_phase("Complete")
    refused = made.site(site)
    assert (refused["phase"], refused["reason"]) == ("Refused", "FederationNotAllowed")
    assert FEDERATION in refused["message"]
    assert status["sitesSummary"] == "1/1/2"
    assert made.jobs(site.namespace) == []


def test_withdrawn_consent_stops_a_running_site(platform: Platform, launch: Launch, hospitals: Hospitals) -> None:
    site = hospitals.add(f"{PREFIX}-fickle")
    made = launch("fickle", site, training={"epochs": 10_000})
    made.wait(
        "training", lambda status: any(item.get("reason") == "JobRunning" for item in status.get("sites", [])) or None
    )
    platform.api.patch("Hospital", site.namespace, NAME, {"spec": {"federations": []}})
    refused = made.wait_site(site, "Refused")
    assert refused["reason"] == "FederationNotAllowed"
    assert refused["failures"] == 0
    wait_until("nothing runs", lambda: _nothing_runs(made, site), 60, made.dump)
    assert not platform.api.get("Hospital", site.namespace, NAME).get("status", {}).get("ledger")
    made.delete()


def test_a_round_that_asks_for_more_than_the_hospital_allows_is_refused(launch: Launch, hospitals: Hospitals) -> None:
    site = hospitals.add(f"{PREFIX}-modest", {"maxResources": {"memory": "1Gi"}})
    made = launch("greedy", site)
    refused = made.wait_site(site, "Refused")
    assert refused["reason"] == "ResourcesExceeded"
    assert refused["message"] == "The round asks for 2Gi of memory, the hospital's spec.maxResources allows 1Gi."
    assert _nothing_runs(made, site)
    made.delete()


def test_a_selector_picks_only_hospitals_that_consent(
    platform: Platform, hospitals: Hospitals, sites: tuple[Site, Site, Site], start_model: Any
) -> None:
    labels = {"umim.dev/test-group": f"{PREFIX}-picked"}
    willing = hospitals.add(f"{PREFIX}-willing", {"labels": labels})
    hospitals.add(f"{PREFIX}-unwilling", {"labels": labels, "federations": ["other"]})
    body = round_body("selected", [willing], START)
    body["spec"]["participants"] = {"selector": {"matchLabels": labels}, "quorum": 1}
    made = Round.create(platform, body)
    status = made.wait_phase("Complete")
    assert [(item["name"], item["phase"]) for item in status["sites"]] == [(willing.name, "Succeeded")]
