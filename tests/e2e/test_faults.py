"""Sites that fail, are late or deliver a bad update: who is tried again, who is left out, and what that costs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hack.testenv.hospitals import USER, Hospitals, Site
from hack.testenv.images import write_unlabelled
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch
from umim import contract

Object = dict[str, Any]
LONG = {"epochs": 200}
"""Long enough to be interrupted after the first report."""


MARK = 12345.0
"""No loss that a training measures."""


def _break(site: Site) -> Site:
    """Let the site's Jobs fail in a way that may pass: they cannot write to the work volume."""
    os.chown(site.folder / "work", 0, 0)
    return site


@pytest.fixture(scope="module")
def broken(hospitals: Hospitals) -> Site:
    """A hospital whose Jobs always fail."""
    return _break(hospitals.add(f"{PREFIX}-broken"))


@pytest.fixture(scope="module")
def gated(hospitals: Hospitals) -> Site:
    """A hospital whose Pods never start."""
    return hospitals.add(f"{PREFIX}-gated", gate=True)


@pytest.fixture(scope="module")
def running(
    launch: Launch, hospitals: Hospitals, sites: tuple[Site, Site, Site], broken: Site, gated: Site
) -> dict[str, Round]:
    """Rounds that need no help, all at once."""
    unlabelled = hospitals.add(f"{PREFIX}-unlabelled", prepare=write_unlabelled)
    first = sites[0]
    return {
        "undisturbed": launch("undisturbed", first, training=LONG),
        "late": launch("late", first, gated, quorum=1, deadline="60s"),
        "overdue": launch("overdue", gated, quorum=1, deadline="15s"),
        "unlabelled": launch("unlabelled", first, unlabelled, quorum=1),
        "dead-site": launch("dead-site", first, broken, quorum=1, retries=1),
        "all-dead": launch("all-dead", broken, retries=0),
    }


def _sites(status: Object) -> dict[str, Object]:
    return {item["namespace"]: item for item in status["sites"]}


def _mark_newest_checkpoint(site: Site, made: Round) -> None:
    """Change a figure that a training takes over from its checkpoint and nothing else depends on."""
    newest = max((site.folder / "work" / made.uid / site.name).glob("epoch-*.json"))
    state = json.loads(newest.read_text())
    state["metrics"]["loss_before"] = MARK
    newest.write_text(json.dumps(state))


def _contributors(made: Round) -> list[str]:
    return [item["site"] for item in made.model()["spec"]["contributors"]]


def test_a_killed_site_is_tried_again_from_its_checkpoint(
    launch: Launch, sites: tuple[Site, Site, Site], running: dict[str, Round]
) -> None:
    site = sites[0]
    made = launch("interrupted", site, training=LONG)
    made.wait("an epoch", lambda _: any(report.epoch >= 1 for report in made.reports(site)))
    made.kill_site(site)
    failed = made.wait_site(site, "Backoff")
    assert (failed["attempt"], failed["failures"], failed["reason"]) == (1, 1, "JobFailed")
    _mark_newest_checkpoint(site, made)
    done = _sites(made.wait_phase("Complete"))[site.namespace]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 2, 1)
    assert done["metrics"]["loss_before"] == MARK, "the second attempt goes on from the first one's newest checkpoint"
    assert done["updateDigest"] == _sites(running["undisturbed"].wait_phase("Complete"))[site.namespace]["updateDigest"]


def test_a_site_that_is_mended_between_attempts_delivers(launch: Launch, hospitals: Hospitals) -> None:
    site = _break(hospitals.add(f"{PREFIX}-mended"))
    made = launch("mended", site)
    failed = made.wait_site(site, "Backoff")
    assert (failed["attempt"], failed["failures"], failed["reason"]) == (1, 1, "JobFailed")
    assert failed["retryTime"]
    os.chown(site.folder / "work", USER, USER)
    (done,) = made.wait_phase("Complete")["sites"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 2, 1)


def test_data_that_cannot_be_used_is_not_tried_again(running: dict[str, Round], sites: tuple[Site, ...]) -> None:
    status = running["unlabelled"].wait_phase("Complete")
    bad = _sites(status)[f"{PREFIX}-unlabelled"]
    assert (bad["phase"], bad["reason"], bad["attempt"]) == ("Failed", "PermanentError", 1)
    assert "DataError" in bad["message"]
    assert _contributors(running["unlabelled"]) == [sites[0].name]


def test_a_quorum_is_enough_beside_a_dead_site(
    running: dict[str, Round], broken: Site, sites: tuple[Site, ...]
) -> None:
    status = running["dead-site"].wait_phase("Complete")
    dead = _sites(status)[broken.namespace]
    assert (dead["phase"], dead["reason"]) == ("Failed", "RetriesExhausted")
    assert (dead["attempt"], dead["failures"]) == (2, 2)
    assert status["sitesSummary"] == "1/1/2"
    assert _contributors(running["dead-site"]) == [sites[0].name]


def test_a_round_whose_sites_are_all_dead_fails_before_its_deadline(running: dict[str, Round]) -> None:
    made = running["all-dead"]
    status = made.wait_phase("Failed")
    assert status["reason"] == "QuorumNotReached"
    assert made.condition("QuorumReached")["status"] == "False"
    assert "no more can come" in made.condition("Failed")["message"]
    assert made.secrets() == []


def test_a_round_without_quorum_at_its_deadline_fails_and_stops_its_jobs(
    running: dict[str, Round], gated: Site
) -> None:
    made = running["overdue"]
    status = made.wait_phase("Failed")
    (late,) = status["sites"]
    assert (late["phase"], late["reason"]) == ("Late", "DeadlineExceeded")
    assert status["reason"] == "QuorumNotReached"
    assert "deadline of 15s" in made.condition("Failed")["message"]
    wait_until("no Job is left", lambda: not made.jobs() and not made.pods(), 60, made.dump)
    assert made.secrets() == []


def test_a_round_with_quorum_at_its_deadline_completes_without_the_late_site(
    running: dict[str, Round], gated: Site, sites: tuple[Site, ...]
) -> None:
    made = running["late"]
    status = made.wait_phase("Complete")
    assert _sites(status)[gated.namespace]["phase"] == "Late"
    assert made.condition("TrainingFinished")["reason"] == "DeadlineExceeded"
    assert _contributors(made) == [sites[0].name]
    wait_until("no Job is left", lambda: not made.jobs(gated.namespace), 60, made.dump)


def test_a_tampered_update_is_excluded_and_the_others_make_the_model(
    platform: Platform, launch: Launch, hospitals: Hospitals, sites: tuple[Site, Site, Site], tmp_path: Path
) -> None:
    bad, good, _ = sites
    slow = hospitals.add(f"{PREFIX}-slow", gate=True, seed=7)
    made = launch("tampered", bad, good, slow, quorum=2)
    made.wait_site(bad, "Succeeded")
    store, key = platform.store(), contract.update_key(made.uid, bad.name, 1)
    data = bytearray(store.get(key))
    data[-1] ^= 1
    store.put(key, bytes(data))
    hospitals.open_gate(slow)
    excluded = _sites(made.wait_phase("Complete"))[bad.namespace]
    assert (excluded["phase"], excluded["reason"]) == ("Excluded", "DigestMismatch")
    assert excluded["updateDigest"] in excluded["message"]
    others = sorted(site.name for site in (good, slow))
    assert _contributors(made) == others
    updates = [safetensors.torch.load(store.get(contract.update_key(made.uid, name, 1))) for name in others]
    merged = safetensors.torch.load(store.get(made.model()["spec"]["objectKey"]))
    for name, value in merged.items():
        torch.testing.assert_close(value, (updates[0][name] + updates[1][name]) / 2)
