"""The happy path: a round publishes a model, the next one starts from it, the same round gives the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from hack.testenv.hospitals import NAME, Site
from hack.testenv.images import SIDE
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import ARCHITECTURE, RANDOM, Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch
from umim import contract

Object = dict[str, Any]
TTL = "10s"
LEARNS = {"epochs": 30, "learningRate": 1e-3}
"""Enough for the textures: the loss on unseen patients falls."""


@pytest.fixture(scope="module")
def first(launch: Launch, sites: tuple[Site, Site, Site]) -> Round:
    """A complete round over three hospitals that made its own start model."""
    made = launch("first", *sites, parent=RANDOM, quorum=2, training={"epochs": 8, "learningRate": 3e-3})
    made.wait_phase("Complete")
    return made


@pytest.fixture(scope="module")
def twins(launch: Launch, first: Round, sites: tuple[Site, Site, Site]) -> tuple[Round, Round]:
    """The same round twice at the same time, from the first round's model."""
    parent = {"globalModel": first.status["globalModel"]["name"]}
    one, two = (launch(f"twin-{number}", *sites[:2], parent=parent, ttlAfterFinished=TTL) for number in (1, 2))
    return one, two


def test_a_round_publishes_the_model_under_its_sha256(platform: Platform, first: Round) -> None:
    spec = first.model()["spec"]
    data = platform.store().get(spec["objectKey"])
    assert hashlib.sha256(data).hexdigest() == spec["digest"] == first.status["globalModel"]["digest"]
    assert len(data) == spec["sizeBytes"]
    assert spec["objectKey"] == contract.model_key(spec["digest"])


def test_the_published_model_loads_into_plain_timm(platform: Platform, first: Round, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    platform.store().download(first.model()["spec"]["objectKey"], path)
    model = timm.create_model(ARCHITECTURE, img_size=SIDE, num_classes=0)
    model.load_state_dict(safetensors.torch.load_file(path))
    with torch.no_grad():
        features = model(torch.zeros(1, 3, SIDE, SIDE))
    assert features.shape == (1, model.num_features)
    assert bool(torch.isfinite(features).all())


def test_the_model_names_its_parent_and_its_contributors(platform: Platform, first: Round) -> None:
    spec, status = first.model()["spec"], first.status
    start = platform.api.get("GlobalModel", FEDERATION, spec["parent"]["name"])
    assert spec["parent"] == status["parent"] == {"name": start["metadata"]["name"], "digest": start["spec"]["digest"]}
    assert start["spec"]["strategy"] == "init-random"
    assert start["spec"].get("parent") is None
    assert spec["round"] == {"name": first.name, "uid": first.uid}
    assert [item["site"] for item in spec["contributors"]] == [item["name"] for item in status["sites"]]
    assert [item["updateDigest"] for item in spec["contributors"]] == [item["updateDigest"] for item in status["sites"]]


def test_every_site_shows_one_attempt_its_samples_and_its_metrics(first: Round, sites: tuple[Site, ...]) -> None:
    shown = first.status["sites"]
    assert [item["name"] for item in shown] == sorted(site.name for site in sites)
    for item in shown:
        assert (item["phase"], item["attempt"], item["failures"]) == ("Succeeded", 1, 0)
        assert item["samples"] == 20
        assert item["metrics"]["loss_after"] < item["metrics"]["loss_before"]
        assert {"train_loss_last", "seconds"} <= item["metrics"].keys()


def test_the_update_in_the_store_is_what_the_status_says(platform: Platform, first: Round) -> None:
    store = platform.store()
    for item in first.status["sites"]:
        data = store.get(contract.update_key(first.uid, item["name"], 1))
        assert hashlib.sha256(data).hexdigest() == item["updateDigest"]


def test_the_conditions_tell_that_it_is_complete(first: Round) -> None:
    body = first.body
    conditions = {item["type"]: item for item in body["status"]["conditions"]}
    shown = {name: (item["status"], item["reason"]) for name, item in conditions.items()}
    assert shown == {
        "Accepted": ("True", "Accepted"),
        "Suspended": ("False", "NotSuspended"),
        "TrainingFinished": ("True", "AllSitesFinished"),
        "QuorumReached": ("True", "QuorumReached"),
        "Aggregated": ("True", "Published"),
        "Complete": ("True", "Published"),
        "Failed": ("False", "NotFailed"),
    }
    generation = body["metadata"]["generation"]
    assert {item["observedGeneration"] for item in conditions.values()} == {generation}
    assert body["status"]["observedGeneration"] == generation
    assert body["status"]["sitesSummary"] == "3/2/3"
    assert body["status"]["progress"] == "100%"
    assert body["status"]["startTime"] <= body["status"]["completionTime"]


def test_events_of_the_round_tell_the_story(platform: Platform, first: Round, sites: tuple[Site, ...]) -> None:
    events = [
        item for item in platform.api.select("Event", FEDERATION) if item["involvedObject"].get("uid") == first.uid
    ]
    assert {item["type"] for item in events} == {"Normal"}
    counts: dict[str, int] = {}
    for item in events:
        counts[item["reason"]] = counts.get(item["reason"], 0) + 1
    assert counts["Accepted"] == 1
    # Sites of which there is the same to say in one look share an event.
    committed = " ".join(item["message"] for item in events if item["reason"] == "UpdateCommitted")
    assert [committed.count(site.name) for site in sites] == [1, 1, 1]
    assert counts["AllSitesFinished"] == 1
    assert counts["Published"] == 1


def test_each_hospital_has_the_update_in_its_ledger(platform: Platform, first: Round, sites: tuple[Site, ...]) -> None:
    digests = {item["namespace"]: item["updateDigest"] for item in first.status["sites"]}
    for site in sites:
        status = platform.api.get("Hospital", site.namespace, NAME)["status"]
        (entry,) = [item for item in status["ledger"] if item["roundUid"] == first.uid]
        assert entry["updateDigest"] == digests[site.namespace]
        assert entry["round"] == f"{FEDERATION}/{first.name}"
        assert entry["samples"] == 20
        assert status["participations"] == len(status["ledger"])


def test_no_credentials_are_left_when_the_round_is_over(first: Round) -> None:
    assert first.secrets() == []
    assert all(item["status"]["succeeded"] == 1 for item in first.jobs())


def test_one_trace_spans_the_round(first: Round) -> None:
    trace = first.status["traceId"]
    assert len(trace) == 32
    for job in first.jobs():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        environment = {item["name"]: item.get("value") for item in container["env"]}
        assert environment["TRACEPARENT"].split("-")[1] == trace


def test_the_next_round_starts_from_the_model_of_the_first(first: Round, twins: tuple[Round, Round]) -> None:
    for twin in twins:
        status = twin.wait("a start model", lambda status: status.get("parent") and status)
        assert status["parent"] == first.status["globalModel"]
        assert "initialization" not in status
    for twin in twins:
        assert _published(twin)["spec"]["parent"] == first.status["globalModel"]


def test_the_same_round_gives_the_same_model_bit_for_bit(first: Round, twins: tuple[Round, Round]) -> None:
    digests = {_published(twin)["spec"]["digest"] for twin in twins}
    assert len(digests) == 1
    assert digests != {first.status["globalModel"]["digest"]}


def test_a_finished_round_is_deleted_after_its_time_and_its_model_stays(
    platform: Platform, twins: tuple[Round, Round]
) -> None:
    for twin in twins:
        model = _published(twin)
        twin.wait_gone(60)
        assert twin.objects() == []
        assert twin.jobs() == []
        assert platform.api.get("GlobalModel", FEDERATION, model["metadata"]["name"]) == model
        assert platform.store().stat(model["spec"]["objectKey"]) is not None


def _published(twin: Round) -> Object:
    """Return the model of a round that may be deleted already."""
    api = twin.platform.api

    def look() -> Object | None:
        found = [item for item in api.select("GlobalModel", FEDERATION) if item["spec"]["round"]["uid"] == twin.uid]
        return found[0] if found else None

    return wait_until(f"{twin.name} published", look, 240, twin.dump)
