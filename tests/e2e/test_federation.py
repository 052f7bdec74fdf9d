"""A campaign of three stages over four hospitals, from its start model to its last, with edits on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.testenv.api import ApiError, Object
from hack.testenv.campaigns import Campaign, federation_body, stage
from hack.testenv.handle import SECONDS
from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.images import write_textures
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.volumes import federation_volume

pytestmark = pytest.mark.alone("it kills the operator")

CLAIM = "campaign-pool"
NAMES = ["campaign-s1-one-r1", "campaign-s2-two-r1", "campaign-s3-three-r1"]
POOL = {"claimName": CLAIM, "path": "pool.npz", "format": "npz", "task": "none"}
SMALL_STEP = {"epochs": 1, "batchSize": 8}


@pytest.fixture(scope="module")
def four(hospitals: Hospitals, sites: tuple[Site, Site, Site]) -> tuple[Site, ...]:
    """Four hospitals that just work."""
    return *sites, hospitals.add(f"{PREFIX}-site-d", seed=ord("d"))


@pytest.fixture(scope="module")
def campaign(
    platform: Platform, four: tuple[Site, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Campaign]:
    """A campaign whose first round has just been suspended, before anything else is done with it."""
    folder = tmp_path_factory.mktemp("campaign") / "pool"
    write_textures(folder / "pool.npz", 24, seed=9)
    stages = [stage("one", four[:2]), stage("two", four[2:3]), stage("three", four[:1])]
    with federation_volume(platform, CLAIM, folder):
        made = Campaign.create(
            platform,
            federation_body(
                "campaign",
                stages,
                {"init": "mim"},
                pretraining=SMALL_STEP,
                serverDataset=POOL,
                stopEarly={"patience": 400},
            ),
        )
        made.wait("the first round", lambda _: made.rounds)
        made.set(suspend=True)
        yield made
        if platform.api.find("Federation", FEDERATION, made.name) is not None:
            made.delete()


def test_suspending_the_campaign_suspends_its_running_round(campaign: Campaign) -> None:
    (first,) = campaign.rounds
    first.wait_phase("Suspended")
    status = campaign.wait("phase Suspended", lambda status: status if status.get("phase") == "Suspended" else None)
    assert first.body["spec"]["suspend"] is True
    assert campaign.condition("Suspended")["reason"] == "Suspended"
    assert (status["stage"], status["currentRound"]) == ("1/3", NAMES[0])


def test_a_started_stage_cannot_be_edited_removed_or_moved(campaign: Campaign) -> None:
    one, *later = campaign.body["spec"]["stages"]
    for stages in ([{**one, "rounds": 2}, *later], later, [*later, one]):
        with pytest.raises(ApiError, match=r"the stages up to one have started.*cannot be edited, removed or moved"):
            campaign.set(stages=stages)
    for field, value in (("training", {"epochs": 3}), ("deadline", "2h"), ("model", {"imageSize": 64})):
        with pytest.raises(ApiError, match=rf"spec\.{field} cannot change once the first stage has started"):
            campaign.set(**{field: value})


def test_a_bad_edit_of_a_later_stage_holds_the_campaign_after_its_running_round(
    campaign: Campaign, four: tuple[Site, ...]
) -> None:
    one, _, _ = campaign.body["spec"]["stages"]
    bad = stage("two", four[2:3], aggregation={"strategy": "guess"})
    campaign.set(
        stages=[one, bad, stage("three", four[3:], training={"epochs": 2, "batchSize": 8, "seed": 7})], suspend=False
    )
    model = campaign.wait("the first model", lambda status: status.get("globalModel"), 3 * SECONDS)
    campaign.wait("the reason", lambda status: status.get("reason") == "UnknownStrategy")
    accepted = campaign.condition("Accepted")
    assert accepted["status"] == "False"
    assert "Stage two (spec.stages[1]" in accepted["message"]
    assert campaign.status["lineage"][-1] == model
    assert [round_.name for round_ in campaign.rounds] == NAMES[:1]


def test_suspended_between_stages_it_starts_no_round_although_all_is_well(
    campaign: Campaign, four: tuple[Site, ...]
) -> None:
    one, _, three = campaign.body["spec"]["stages"]
    campaign.set(stages=[one, stage("two", four[2:3]), three], suspend=True)
    campaign.wait("acceptance", lambda _: campaign.condition("Accepted").get("status") == "True")
    assert campaign.status["phase"] == "Suspended"
    assert [item["phase"] for item in campaign.status["stages"]] == ["Complete", "Pending", "Pending"]
    assert [round_.name for round_ in campaign.rounds] == NAMES[:1]


def test_it_goes_on_to_its_end_although_the_operator_is_killed_on_the_way(
    platform: Platform, campaign: Campaign
) -> None:
    campaign.set(suspend=False)
    campaign.wait("training in stage two", lambda status: _phases(status, 1) == ["Training"])
    platform.kill_operator()
    campaign.wait("phase Complete", lambda status: status.get("phase") == "Complete", 4 * SECONDS)
    assert campaign.condition("Suspended")["reason"] == "Resumed"
    assert [round_.name for round_ in campaign.rounds] == NAMES


def test_the_table_of_stages_names_rounds_models_and_losses(platform: Platform, campaign: Campaign) -> None:
    status = campaign.status
    assert [item["name"] for item in status["stages"]] == ["one", "two", "three"]
    assert {item["phase"] for item in status["stages"]} == {"Complete"}
    rounds = [round_ for item in status["stages"] for round_ in item["rounds"]]
    assert [item["name"] for item in rounds] == NAMES
    for item in rounds:
        metrics = platform.api.get("GlobalModel", FEDERATION, item["globalModel"]["name"])["spec"]["metrics"]
        assert item["serverMimLoss"] == metrics["server_mim_loss"] > 0
    assert (status["reason"], status["stage"], status["frozenStages"]) == ("AllStagesComplete", "3/3", 3)


def test_kubectl_shows_the_lineage_from_the_start_model_through_the_stages(
    platform: Platform, campaign: Campaign
) -> None:
    columns = "custom-columns=NAME:.metadata.name,PARENT:.spec.parent.name,ROUND:.spec.round.name"
    assert platform.run_kubectl("get", "gmodel", "-n", FEDERATION).split()[:4] == [
        "NAME",
        "ARCHITECTURE",
        "STRATEGY",
        "PARENT",
    ]
    lines = platform.run_kubectl("get", "gmodel", "-n", FEDERATION, "-o", columns, "--no-headers").splitlines()
    made = {name: (parent, round_) for name, parent, round_ in (line.split() for line in lines)}
    lineage = [item["name"] for item in campaign.status["lineage"]]
    assert len(lineage) == 4
    assert made[lineage[0]] == ("<none>", NAMES[0])
    for parent, child, round_ in zip(lineage, lineage[1:], NAMES, strict=False):
        assert made[child] == (parent, round_)


def test_each_stage_had_its_hospitals_its_settings_and_a_seed_of_its_own(
    campaign: Campaign, four: tuple[Site, ...]
) -> None:
    first, second, third = campaign.rounds
    names = [site.name for site in four]
    assert [first.contributors(), second.contributors(), third.contributors()] == [names[:2], names[2:3], names[3:]]
    specs = [round_.body["spec"] for round_ in (first, second, third)]
    assert [spec["training"]["epochs"] for spec in specs] == [1, 1, 2]
    assert [spec["training"]["seed"] for spec in specs] == [1, 2, 9]
    assert ["pretraining" in spec for spec in specs] == [True, False, False]


def test_kubectl_shows_the_campaign_in_one_row(platform: Platform, campaign: Campaign) -> None:
    head, row = platform.run_kubectl("get", "fed", "campaign", "-n", FEDERATION, "-o", "wide").splitlines()
    assert head.split() == ["NAME", "PHASE", "STAGE", "ROUND", "MODEL", "AGE", "REASON"]
    shown = row.split()
    model = campaign.status["globalModel"]["name"]
    assert shown[:5] == ["campaign", "Complete", "3/3", NAMES[2], model]
    assert shown[-1] == "AllStagesComplete"


def test_events_of_the_campaign_tell_the_story(platform: Platform, campaign: Campaign) -> None:
    uid = campaign.body["metadata"]["uid"]
    found = [item for item in platform.api.select("Event", FEDERATION) if item["involvedObject"].get("uid") == uid]
    counts: dict[str, int] = {}
    for item in found:
        counts[item["reason"]] = counts.get(item["reason"], 0) + 1
    assert counts == {
        "Accepted": 2,
        "StageRunning": 3,
        "StageComplete": 3,
        "Suspended": 2,
        "UnknownStrategy": 1,
        "AllStagesComplete": 1,
    }
    assert [item["type"] for item in found if item["reason"] == "UnknownStrategy"] == ["Warning"]


def test_a_campaign_that_has_ended_cannot_be_edited(campaign: Campaign, four: tuple[Site, ...]) -> None:
    stages: list[Object] = campaign.body["spec"]["stages"]
    with pytest.raises(ApiError, match="cannot grow or shrink when the campaign has ended"):
        campaign.set(stages=[*stages, stage("four", four)])
    with pytest.raises(ApiError, match="the stages up to three have started"):
        campaign.set(stages=[*stages[:2], {**stages[2], "rounds": 3}])


def test_deleting_the_campaign_deletes_its_rounds_and_keeps_the_models(platform: Platform, campaign: Campaign) -> None:
    rounds, lineage = campaign.rounds, campaign.status["lineage"]
    (owner,) = rounds[0].body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Federation", campaign.name)
    campaign.delete()
    assert campaign.rounds == []
    for round_ in rounds:
        assert round_.jobs() == []
        assert round_.objects() == []
    for model in lineage:
        assert platform.api.get("GlobalModel", FEDERATION, model["name"])["spec"]["digest"] == model["digest"]


def _phases(status: Object, stage: int) -> list[str]:
    return [item["phase"] for item in status["stages"][stage]["rounds"]]
