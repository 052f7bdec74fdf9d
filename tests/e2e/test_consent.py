"""A hospital's Hospital resource is its consent: given, limited, withdrawn."""

from __future__ import annotations

from typing import Any

from hack.testenv.hospitals import NAME, Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch


def _reason(round_: Round, site: Site) -> str:
    seen = round_.wait_site(site, "Refused")
    return str(seen["reason"])


def test_a_refused_hospital_that_consents_later_takes_part(
    platform: Platform, hospitals: Hospitals, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    absent = hospitals.add(f"{PREFIX}-absent", consent=False)
    others = hospitals.add(f"{PREFIX}-others", {"federations": ["somebody-else"]})
    small = hospitals.add(f"{PREFIX}-small", {"maxResources": {"memory": "1Gi"}})
    round_ = launch("consent", sites[0], absent, others, small, quorum=3)
    assert _reason(round_, absent) == "HospitalNotFound"
    assert _reason(round_, others) == "FederationNotAllowed"
    assert "spec.federations does not list" in round_.site(others)["message"]
    assert _reason(round_, small) == "ResourcesExceeded"
    assert "spec.maxResources allows 1Gi" in round_.site(small)["message"]
    round_.wait("the missing consent named", lambda status: status.get("reason") == "WaitingForConsent")
    assert round_.jobs(others.namespace) == round_.jobs(small.namespace) == []
    hospitals.join(absent)
    hospitals.join(others)
    round_.wait_phase("Complete")
    assert round_.contributors() == sorted([sites[0].name, absent.name, others.name])
    assert round_.site(small)["phase"] == "Refused"
    assert platform.api.get("Hospital", others.namespace, NAME)["status"]["participations"] == 1


def test_consent_that_is_withdrawn_stops_the_job(
    platform: Platform, hospitals: Hospitals, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    leaving = hospitals.add(f"{PREFIX}-withdraws")
    round_ = launch("withdrawn", sites[1], leaving, quorum=1, training={"epochs": 150})
    wait_until(
        "the site's Pod runs",
        lambda: any(pod["status"].get("phase") == "Running" for pod in round_.pods(leaving.namespace)),
        120,
        round_.dump,
    )
    platform.api.patch("Hospital", leaving.namespace, NAME, {"spec": {"federations": []}})
    assert _reason(round_, leaving) == "FederationNotAllowed"
    wait_until("its Job is gone", lambda: not round_.jobs(leaving.namespace), 60, round_.dump)
    round_.wait_phase("Complete")
    assert round_.contributors() == [sites[1].name]


def test_a_selector_takes_the_consenting_hospitals_that_carry_its_labels(
    platform: Platform, hospitals: Hospitals, start_model: Any, sites: tuple[Site, Site, Site]
) -> None:
    refusing = hospitals.add(f"{PREFIX}-refusing", {"federations": []})
    label = {"umim.dev/organ": PREFIX}
    for site in (sites[0], sites[2], refusing):
        platform.api.patch("Hospital", site.namespace, NAME, {"metadata": {"labels": label}})
    body = {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "FederationRound",
        "metadata": {"name": "selected", "namespace": FEDERATION},
        "spec": {
            "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"globalModel": "t-base"}},
            "participants": {"selector": {"matchLabels": label}, "quorum": 2},
            "training": {"batchSize": 8},
            "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        },
    }
    round_ = Round.create(platform, body)
    round_.wait_phase("Complete")
    assert round_.contributors() == sorted([sites[0].name, sites[2].name])
