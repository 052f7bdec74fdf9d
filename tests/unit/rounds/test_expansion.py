"""From a Federation to its rounds."""

from __future__ import annotations

from typing import Any

import pytest

from umim.api.federation import FederationSpec, StopEarlySpec
from umim.rounds.expansion import SEEDS, round_numbers, round_spec, stops_early

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


def test_rounds_come_stage_by_stage_with_names_from_one() -> None:
    campaign = spec()
    numbers = round_numbers(campaign)
    assert [(one.number, one.stage, one.round) for one in numbers] == [(0, 0, 0), (1, 1, 0), (2, 1, 1)]
    names = [one.name("fed", campaign.stages[one.stage]) for one in numbers]
    assert names == ["fed-s1-first-r1", "fed-s2-second-r1", "fed-s2-second-r2"]


def test_the_first_round_starts_from_the_federations_parent_and_later_ones_from_the_model_before() -> None:
    first, second, _ = round_numbers(spec())
    start = round_spec(spec(), first, None)
    assert start.model == spec().model
    assert start.pretraining == spec().pretraining
    later = round_spec(spec(), second, "fed-s1-first-r1-0123abcd")
    assert later.model.parent.to_dict() == {"globalModel": "fed-s1-first-r1-0123abcd"}
    assert later.model.architecture == "test_vit"
    assert later.pretraining is None
    assert later.server_dataset == spec().server_dataset


def test_a_stage_overrides_a_setting_wholly_and_has_the_federations_others() -> None:
    first, second, _ = round_numbers(spec())
    assert round_spec(spec(), first, None).training.epochs == 2
    later = round_spec(spec(), second, "m")
    assert (later.training.epochs, later.training.batch_size, later.deadline) == (7, 64, "2h")


def test_each_round_adds_its_number_to_the_seeds() -> None:
    specs = [round_spec(spec(), one, "m") for one in round_numbers(spec())]
    assert [one.training.seed for one in specs] == [1, 6, 7]
    assert [one.distillation.seed for one in specs if one.distillation] == [9, 10, 11]


def test_seeds_stay_below_their_limit() -> None:
    campaign = spec(training={"seed": SEEDS - 1}, stages=[STAGES[0] | {"rounds": 2}])
    assert [round_spec(campaign, one, "m").training.seed for one in round_numbers(campaign)] == [SEEDS - 1, 0]


def test_the_longest_names_fit_into_the_limit_of_a_rounds_name() -> None:
    stages = [STAGES[0] | {"name": "s" * 60 + f"{number:03}", "rounds": 7} for number in range(64)]
    campaign = spec(stages=stages)
    last = round_numbers(campaign)[-1]
    assert len(last.name("f" * 63, campaign.stages[last.stage])) <= 200


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
    assert stops_early(StopEarlySpec(patience=patience, min_improvement=improvement), losses) is ends
    assert stops_early(None, losses) is False
