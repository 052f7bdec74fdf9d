"""A real Kueue admits the Jobs of a round: one hospital's waits for quota until the other's has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.kueue import QUEUE, cluster_queue, kueue, local_queue
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import SMALL, Round
from tests.e2e.conftest import Launch
from umim.rounds.consent import DEFAULT_REQUESTS

ONE_JOB = SMALL["requests"]
"""Quota for a site's Job, and for no second one."""


@pytest.fixture(scope="module")
def queued_sites(platform: Platform, hospitals: Hospitals) -> Iterator[tuple[Site, Site]]:
    """Two hospitals that share a quota for one Job. Their images are missing, so that a Job that is admitted stays."""
    with kueue(platform):
        cluster_queue(platform, f"{PREFIX}-sites", ONE_JOB)
        cluster_queue(platform, f"{PREFIX}-server", DEFAULT_REQUESTS)
        found = [
            hospitals.add(f"{PREFIX}-queue-{letter}", {"queueName": QUEUE}, seed=ord(letter), gate=True)
            for letter in "ab"
        ]
        for site in found:
            local_queue(platform, site.namespace, f"{PREFIX}-sites")
        local_queue(platform, FEDERATION, f"{PREFIX}-server")
        yield found[0], found[1]


def _split(round_: Round, sites: tuple[Site, Site]) -> tuple[Site, Site] | None:
    """Return the site whose Job is admitted and the one whose Job waits, when it has come to that."""
    phases = {site: round_.site(site).get("phase") for site in sites}
    if sorted(str(phase) for phase in phases.values()) != ["Queued", "Running"]:
        return None
    first, second = sorted(sites, key=lambda site: phases[site] == "Queued")
    told = round_.site(second).get("message", "")
    return (first, second) if "insufficient" in told else None


def test_a_round_waits_for_quota_says_so_and_completes_when_it_is_admitted(
    platform: Platform, hospitals: Hospitals, launch: Launch, queued_sites: tuple[Site, Site]
) -> None:
    round_ = launch("queued", *queued_sites, queueName=QUEUE)
    admitted, waiting = round_.wait("one Job admitted, one waiting", lambda _: _split(round_, queued_sites))

    told = round_.site(waiting)
    assert told["reason"] == "WaitingForQuota"
    assert f"LocalQueue {QUEUE}: " in told["message"]
    (job,) = round_.jobs(waiting.namespace)
    assert job["spec"]["suspend"] is True
    assert round_.pods(waiting.namespace) == []
    (running,) = round_.jobs(admitted.namespace)
    assert running["spec"]["suspend"] is False
    described = platform.run_kubectl("describe", "fround", "queued", "-n", FEDERATION)
    assert "WaitingForQuota" in described
    assert "insufficient unused quota" in described

    for site in queued_sites:
        hospitals.open_gate(site)
    round_.wait_phase("Complete")
    assert {(item["phase"], item["attempt"], item["failures"]) for item in round_.status["sites"]} == {
        ("Succeeded", 1, 0)
    }
    assert {job["spec"]["suspend"] for job in round_.jobs()} == {False}
    labels = {job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for job in round_.jobs()}
    assert labels == {QUEUE}, "the server's Job came through its queue, too"
    reasons = [item["reason"] for item in platform.api.select("Event", FEDERATION)]
    assert "WaitingForQuota" in reasons
    round_.delete()


def test_a_round_that_is_deleted_in_the_queue_leaves_nothing(
    platform: Platform, launch: Launch, queued_sites: tuple[Site, Site]
) -> None:
    cluster_queue(platform, f"{PREFIX}-sites", dict.fromkeys(ONE_JOB, "0"))
    round_ = launch("queued-deleted", *queued_sites)
    round_.wait(
        "all Jobs waiting", lambda status: {item["phase"] for item in status.get("sites", [])} == {"Queued"} or None
    )
    assert round_.status["reason"] == "WaitingForQuota"
    round_.delete()
    assert round_.jobs() == []
    assert round_.secrets() == []
    for site in queued_sites:
        left = [item["metadata"] for item in platform.api.select("Workload", site.namespace)]
        assert [meta["name"] for meta in left if "deletionTimestamp" not in meta] == []
