"""What may change of a campaign and when, field by field, on the real API server; and how it goes with its rounds."""

from __future__ import annotations

from typing import Any

import pytest

from hack.testenv.api import ApiError, Object
from hack.testenv.campaigns import Campaign
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.waiting import wait_until
from tests.integration.conftest import changed, good_federation
from umim.api.federation import FederationSpec, StageSpec

GOOD = good_federation()
STAGES: list[Object] = GOOD["spec"]["stages"]
IMAGES = {"claimName": "pool", "format": "npz", "task": "none"}
OTHER = [{"namespace": "elsewhere", "name": "radiology"}]

FIELDS: dict[str, Any] = {
    "model": {"imageSize": 64},
    "pretraining": {"epochs": 5},
    "serverDataset": {"path": "other.npz"},
    "training": {"epochs": 7},
    "resources": {"limits": {"memory": "3Gi"}},
    "aggregation": {"strategy": "other"},
    "distillation": {"epochs": 5},
    "deadline": "2h",
    "retries": 9,
    "queueName": "umim",
}
"""A change of every field that the first stage freezes."""

STAGE_FIELDS: dict[str, Any] = {
    "name": "pet",
    "rounds": 2,
    "training": {"epochs": 7},
    "resources": {"limits": {"memory": "3Gi"}},
    "aggregation": {"strategy": "fedavg"},
    "distillation": {"epochs": 5},
    "deadline": "2h",
    "retries": 9,
}
"""A change of every field of a stage but its participants."""

PARTICIPANTS: dict[str, Any] = {
    "quorum": {**STAGES[0]["participants"], "quorum": 1},
    "fewer hospitals": {"hospitals": STAGES[0]["participants"]["hospitals"][:1], "quorum": 1},
    "another hospital": {"hospitals": STAGES[0]["participants"]["hospitals"][:1] + OTHER, "quorum": 2},
    "moved hospitals": {"hospitals": STAGES[0]["participants"]["hospitals"][::-1], "quorum": 2},
    "selector": {"selector": {"matchLabels": {"organ": "brain"}}, "quorum": 2},
}


@pytest.fixture(scope="module")
def started(platform: Platform) -> Campaign:
    """A campaign whose first stage has started, with every field of the spec. Its start model has no images."""
    body = good_federation("started")
    fields = {
        "model.parent": {"init": "mim"},
        "pretraining": {"epochs": 1},
        "serverDataset": IMAGES,
        "distillation": {"epochs": 1},
    }
    for path, value in fields.items():
        body = changed(body, f"spec.{path}", value)
    made = Campaign.create(platform, body)
    made.wait("the first stage", lambda status: status.get("frozenStages") == 1)
    return made


@pytest.mark.parametrize("field", FIELDS)
def test_a_setting_that_started_stages_inherit_cannot_change(started: Campaign, field: str) -> None:
    with pytest.raises(ApiError) as caught:
        started.set(**{field: FIELDS[field]})
    assert f"spec.{field} cannot change once the first stage has started" in str(caught.value)


def test_every_field_of_the_spec_is_covered() -> None:
    names = {field.alias or name for name, field in FederationSpec.model_fields.items()}
    assert names - {"stages", "stopEarly", "suspend"} == set(FIELDS)
    assert {field.alias or name for name, field in StageSpec.model_fields.items()} - {"participants"} == set(
        STAGE_FIELDS
    )


@pytest.mark.parametrize("field", STAGE_FIELDS)
def test_a_field_of_a_started_stage_cannot_change(started: Campaign, field: str) -> None:
    first, *later = started.body["spec"]["stages"]
    _refused(started, [{**first, field: STAGE_FIELDS[field]}, *later])


@pytest.mark.parametrize("what", PARTICIPANTS)
def test_the_participants_of_a_started_stage_cannot_change(started: Campaign, what: str) -> None:
    first, *later = started.body["spec"]["stages"]
    _refused(started, [{**first, "participants": PARTICIPANTS[what]}, *later])


def test_a_started_stage_cannot_be_removed_or_moved_and_nothing_comes_before_it(started: Campaign) -> None:
    first, *later = started.body["spec"]["stages"]
    for stages in (later, [*later, first], [{**first, "name": "pet"}, first, *later]):
        _refused(started, stages)


def test_later_stages_may_be_edited_added_removed_and_moved(started: Campaign) -> None:
    first, second, third = STAGES
    for later in ([third, second], [{**second, "rounds": 3}], [], [second, third, {**third, "name": "pet"}]):
        started.set(stages=[first, *later])
        _wait_stages(started, ["ct", *(item["name"] for item in later)])
    assert len(started.rounds) == 1


def test_stop_early_and_suspend_may_always_change(started: Campaign) -> None:
    started.set(stopEarly={"patience": 3})
    started.set(suspend=True)
    assert started.wait("phase Suspended", lambda status: status.get("phase") == "Suspended")
    started.set(suspend=False)


def test_before_its_first_stage_starts_everything_may_change(platform: Platform) -> None:
    body = changed(changed(good_federation("early"), "spec.suspend", True), "spec.serverDataset", IMAGES)
    made = Campaign.create(platform, body)
    made.wait("phase Suspended", lambda status: status.get("phase") == "Suspended")
    made.set(model={"imageSize": 64}, stages=STAGES[1:], training={"epochs": 5})
    _wait_stages(made, ["mri", "us"])
    assert (made.rounds, made.status["stage"]) == ([], "0/2")
    made.delete()


def test_a_campaign_of_thousands_of_hospitals_starts_and_can_be_deleted(platform: Platform) -> None:
    stages = [
        {
            "name": f"stage-{number}",
            "participants": {"hospitals": [{"namespace": f"hospital-{i}", "name": "radiology"} for i in range(150)]},
        }
        for number in range(64)
    ]
    made = Campaign.create(platform, changed(good_federation("large"), "spec.stages", stages))
    made.wait("the first stage", lambda status: status.get("stage") == "1/64")
    made.delete()


def test_a_round_of_the_campaign_that_is_deleted_is_made_again(platform: Platform, started: Campaign) -> None:
    (before,) = started.rounds
    platform.api.delete("FederationRound", FEDERATION, before.name)
    wait_until(
        "the round again", lambda: [one.uid for one in started.rounds] not in ([], [before.uid]), 60, started.dump
    )
    assert [one.name for one in started.rounds] == [before.name]


def test_a_round_of_the_same_name_stands_in_the_way_until_it_is_deleted(platform: Platform) -> None:
    meta = {"name": "blocked-s1-ct-r1", "namespace": FEDERATION}
    spec = {"model": GOOD["spec"]["model"], "participants": STAGES[0]["participants"]}
    platform.api.create({**GOOD, "kind": "FederationRound", "metadata": meta, "spec": spec})
    made = Campaign.create(platform, good_federation("blocked"))
    made.wait("the reason", lambda status: status.get("reason") == "RoundNameTaken")
    assert "blocked-s1-ct-r1" in made.condition("Accepted")["message"]
    platform.api.delete("FederationRound", FEDERATION, "blocked-s1-ct-r1")
    made.wait("acceptance", lambda _: made.condition("Accepted").get("status") == "True")
    assert [one.name for one in made.rounds] == ["blocked-s1-ct-r1"]
    made.delete()
    assert made.rounds == []


def test_a_round_that_the_api_server_refuses_is_tried_again(platform: Platform) -> None:
    quota = {"namespace": FEDERATION, "name": "no-rounds"}
    hard = {"hard": {"count/federationrounds.umim.dev": "0"}}
    api = platform.api
    api.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": quota, "spec": hard})
    try:
        wait_until(
            "the quota",
            lambda: _enforced(api.get("ResourceQuota", FEDERATION, "no-rounds")),
            60,
            lambda: "it is not enforced",
        )
        made = Campaign.create(platform, good_federation("refused"))
        made.wait("the reason", lambda status: status.get("reason") == "RoundRefused")
        assert "exceeded quota" in made.condition("Accepted")["message"]
        assert made.rounds == []
    finally:
        api.delete("ResourceQuota", FEDERATION, "no-rounds")
    made.wait("acceptance", lambda _: made.condition("Accepted").get("status") == "True")
    assert [one.name for one in made.rounds] == ["refused-s1-ct-r1"]
    made.delete()


def _enforced(quota: Object) -> bool:
    return "count/federationrounds.umim.dev" in quota.get("status", {}).get("used", {})


def _wait_stages(campaign: Campaign, names: list[str]) -> None:
    """Wait until the table has exactly these stages."""
    campaign.wait(f"the stages {names}", lambda status: [item["name"] for item in status.get("stages", [])] == names)


def _refused(campaign: Campaign, stages: list[Object]) -> None:
    with pytest.raises(ApiError) as caught:
        campaign.set(stages=stages)
    assert "the stages up to ct have started" in str(caught.value)
