"""Sites that fail: retried, given up, late, or excluded. The rounds of this file run side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.images import write_unlabelled
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch
from umim import contract
from umim.api.round import Progress

LONG = {"epochs": 150}
"""Long enough to be killed in the middle."""


@dataclass(frozen=True)
class Faults:
    """Rounds that have been started, by what is wrong with them."""

    permanent: Round
    no_quorum: Round
    late: Round
    tampered: Round


@pytest.fixture(scope="module")
def broken(hospitals: Hospitals) -> Site:
    """A hospital whose images have no labels."""
    return hospitals.add(f"{PREFIX}-broken", prepare=write_unlabelled)


@pytest.fixture(scope="module")
def closed(hospitals: Hospitals) -> Site:
    """A hospital whose volume never appears: its Pods never start."""
    return hospitals.add(f"{PREFIX}-closed", gate=True)


@pytest.fixture(scope="module")
def gated(hospitals: Hospitals) -> Site:
    """A hospital whose volume appears late."""
    return hospitals.add(f"{PREFIX}-gated", gate=True)


@pytest.fixture(scope="module")
def faults(launch: Launch, sites: tuple[Site, Site, Site], broken: Site, closed: Site, gated: Site) -> Faults:
    one, two, three = sites
    return Faults(
        permanent=launch("permanent", one, broken, quorum=1),
        no_quorum=launch("no-quorum", two, closed, quorum=2, deadline="30s"),
        late=launch("late", three, closed, quorum=1, deadline="40s"),
        tampered=launch("tampered", one, two, gated, quorum=2),
    )


def test_a_site_whose_data_cannot_be_used_ends_without_retries_and_the_round_goes_on(
    faults: Faults, broken: Site, sites: tuple[Site, Site, Site]
) -> None:
    seen = faults.permanent.wait_site(broken, "Failed")
    assert (seen["attempt"], seen["failures"], seen["reason"]) == (1, 0, "PermanentError")
    faults.permanent.wait_phase("Complete")
    assert faults.permanent.contributors() == [sites[0].name]
    assert len(faults.permanent.jobs(broken.namespace)) == 1


def test_a_message_about_data_does_not_leave_the_hospital(faults: Faults, broken: Site) -> None:
    seen = faults.permanent.wait_site(broken, "Failed")
    assert seen["message"].startswith("DataError: the data cannot be used")
    assert "npz" not in seen["message"]


def test_at_the_deadline_a_round_without_quorum_fails_and_its_jobs_are_stopped(faults: Faults, closed: Site) -> None:
    status = faults.no_quorum.wait_phase("Failed", 120)
    assert status["reason"] == "QuorumNotReached"
    assert faults.no_quorum.site(closed)["phase"] == "Late"
    assert faults.no_quorum.condition("QuorumReached")["status"] == "False"
    assert "globalModel" not in status
    wait_until("no Job is active", lambda: not faults.no_quorum.active_jobs(), 60, faults.no_quorum.dump)
    assert faults.no_quorum.secrets() == []


def test_at_the_deadline_a_round_with_quorum_goes_on_without_the_late_site(
    faults: Faults, closed: Site, sites: tuple[Site, Site, Site]
) -> None:
    faults.late.wait_phase("Complete")
    assert faults.late.site(closed)["phase"] == "Late"
    assert faults.late.condition("TrainingFinished")["reason"] == "DeadlineExceeded"
    assert faults.late.contributors() == [sites[2].name]


def test_an_update_that_was_changed_in_the_store_is_excluded_with_its_reason(
    platform: Platform, hospitals: Hospitals, faults: Faults, gated: Site, sites: tuple[Site, Site, Site]
) -> None:
    round_, victim, honest = faults.tampered, sites[0], sites[1]
    round_.wait_site(victim, "Succeeded")
    round_.wait_site(honest, "Succeeded")
    key = contract.update_key(round_.uid, victim.name, 1)
    data = bytearray(platform.store().get(key))
    data[-1] ^= 1
    platform.store().put(key, bytes(data))
    hospitals.open_gate(gated)
    round_.wait_phase("Complete")
    seen = round_.site(victim)
    assert (seen["phase"], seen["reason"]) == ("Excluded", "DigestMismatch")
    assert round_.contributors() == sorted([honest.name, gated.name])
    assert round_.status["sitesSummary"] == "2/2/3"


def test_a_killed_site_is_tried_again_and_continues_from_its_checkpoint(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    victim, other = sites[:2]
    killed = launch("killed", victim, other, training=LONG)
    undisturbed = launch("undisturbed", victim, other, training=LONG)
    stream = contract.progress_stream(killed.uid, victim.name)
    before = killed.wait(
        "an epoch reported",
        lambda _: [item for item in _reports(platform, stream) if item.epoch >= 1],
    )
    seen = len(_reports(platform, stream))
    killed.kill_site(victim)
    backoff = killed.wait_site(victim, "Backoff")
    assert (backoff["attempt"], backoff["failures"], backoff["reason"]) == (1, 1, "JobFailed")
    assert backoff["retryTime"] > killed.status["startTime"]
    for round_ in (killed, undisturbed):
        round_.wait_phase("Complete")
    status = killed.site(victim)
    assert (status["phase"], status["attempt"], status["failures"]) == ("Succeeded", 2, 1)
    after = _reports(platform, stream)[seen:]
    assert min(item.epoch for item in after) >= before[0].epoch
    assert status["updateDigest"] == undisturbed.site(victim)["updateDigest"]
    assert killed.status["globalModel"]["digest"] == undisturbed.status["globalModel"]["digest"]


def test_a_round_whose_quorum_can_no_longer_be_reached_fails_at_once(
    launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    victim, other = sites[1:]
    round_ = launch("exhausted", victim, other, training=LONG, retries=0)
    wait_until(
        "the site's Pod runs",
        lambda: any(pod["status"].get("phase") == "Running" for pod in round_.pods(victim.namespace)),
        120,
        round_.dump,
    )
    round_.kill_site(victim)
    status = round_.wait_phase("Failed")
    assert status["reason"] == "QuorumNotReached"
    assert round_.site(victim)["reason"] == "RetriesExhausted"
    wait_until("no Job is active", lambda: not round_.active_jobs(), 60, round_.dump)


def _reports(platform: Platform, stream: str) -> list[Progress]:
    """Return all live reports of a site, oldest first."""
    entries = cast(list[tuple[str, dict[str, str]]], platform.redis().xrange(stream))
    return [Progress.model_validate_json(fields["progress"]) for _, fields in entries]
