"""From a Federation to its rounds."""

from __future__ import annotations

from typing import Any

import pytest

from umim.api.federation import FederationSpec, StopEarlySpec
from umim.rounds.campaign import SEEDS, CampaignRound, campaign_rounds, no_longer_better, round_spec

HOSPITAL = {"namespace": "hospital-a", "name": "radiology"}
STAGES: list[dict[str, Any]] = [
    {"name": "first", "participants": {"hospitals": [HOSPITAL]}},
    {"name": "second", "participants": {"hospitals": [HOSPITAL]}, "rounds": 2, "training": {"epochs": 7, "seed": 5}},
]
BODY = {
    "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"init": "mim"}},
    "pretraining": {"epochs": 3},
    "serverDataset": {"claimName": "pool", "format": "npz", "task": "none"},
    "training": {"epochs": 2, "seed": 1},
    "distillation": {"seed": 9},
    "deadline": "2h",
    "stages": STAGES,
}


def spec(**changes: Any) -> FederationSpec:
    return FederationSpec.model_validate(BODY | changes)


def rounds(campaign: FederationSpec) -> list[CampaignRound]:
    return campaign_rounds("fed", campaign)


def test_rounds_come_stage_by_stage_with_names_from_one() -> None:
    assert rounds(spec()) == [
        CampaignRound(0, "fed-s1-first-r1", 0),
        CampaignRound(1, "fed-s2-second-r1", 1),
        CampaignRound(2, "fed-s2-second-r2", 1),
    ]


def test_the_first_round_starts_from_the_federations_parent_and_later_ones_from_the_model_before() -> None:
    first, second, _ = rounds(spec())
    start = round_spec(spec(), first, None)
    assert start.model == spec().model
    assert start.pretraining == spec().pretraining
    later = round_spec(spec(), second, "fed-s1-first-r1-0123abcd")
    assert later.model.parent.to_dict() == {"globalModel": "fed-s1-first-r1-0123abcd"}
    assert later.model.architecture == "test_vit"
    assert later.pretraining is None
    assert later.server_dataset == spec().server_dataset


def test_a_stage_overrides_a_setting_wholly_and_has_the_federations_others() -> None:
    first, second, _ = rounds(spec())
    assert round_spec(spec(), first, None).training.epochs == 2
    later = round_spec(spec(), second, "m")
    assert (later.training.epochs, later.training.batch_size, later.deadline) == (7, 64, "2h")


def test_each_round_adds_its_number_to_the_seeds() -> None:
    specs = [round_spec(spec(), one, "m") for one in rounds(spec())]
    assert [one.training.seed for one in specs] == [1, 6, 7]
    assert [one.distillation.seed for one in specs if one.distillation] == [9, 10, 11]


def test_seeds_stay_below_their_limit() -> None:
    campaign = spec(training={"seed": SEEDS - 1}, stages=[STAGES[0] | {"rounds": 2}])
    assert [round_spec(campaign, one, "m").training.seed for one in rounds(campaign)] == [SEEDS - 1, 0]


def test_the_longest_names_fit_into_the_limit_of_a_rounds_name() -> None:
    stages = [STAGES[0] | {"name": "s" * 60 + f"{number:03}", "rounds": 7} for number in range(64)]
    assert len(campaign_rounds("f" * 63, spec(stages=stages))[-1].name) <= 200


@pytest.mark.parametrize(
    ("losses", "patience", "improvement", "ends"),
    [
        ([], 1, 0, False),
        ([0.5], 1, 0, False),
        ([0.5, 0.4], 1, 0, False),
        ([0.5, 0.5], 1, 0, True),
        ([0.5, 0.4], 1, 0.2, True),
        ([0.5, 0.6], 2, 0, False),
        ([0.5, 0.6, 0.55], 2, 0, True),
        ([0.5, 0.6, 0.4], 2, 0, False),
        ([None, 0.5, None], 1, 0, False),
        ([None, None], 1, 0, False),
    ],
)
def test_a_campaign_stops_when_the_loss_gets_no_better(
    losses: list[float | None], patience: int, improvement: float, ends: bool
) -> None:
    assert no_longer_better(StopEarlySpec(patience=patience, min_improvement=improvement), losses) is ends
