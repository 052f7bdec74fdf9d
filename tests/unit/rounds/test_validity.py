"""The rules of the resources in Python say what their CEL twins say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from umim.api.base import ApiModel
from umim.api.federation import FederationSpec
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec
from umim.rounds.validity import RULES, problems, rules_of

A, B = ({"namespace": "hospital", "name": name} for name in "ab")
POOL = {"claimName": "pool", "format": "npz", "task": "none"}
ROUND: dict[str, Any] = {
    "model": {"parent": {"init": "random"}},
    "participants": {"hospitals": [A, B], "quorum": 2},
}
STAGE = {"name": "one", "participants": ROUND["participants"]}
FEDERATION: dict[str, Any] = {"model": {"parent": {"init": "random"}}, "stages": [STAGE]}
HOSPITAL: dict[str, Any] = {
    "federations": ["federation"],
    "data": {"claimName": "images", "format": "npz"},
    "workClaimName": "work",
}
MIM = {"model": {"parent": {"init": "mim"}}}


def models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        yield from _models_in_type(field.annotation)


def _models_in_type(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from models_in(annotation)
    for part in get_args(annotation):
        yield from _models_in_type(part)


def test_every_cel_rule_has_its_twin_and_no_twin_is_left_over() -> None:
    roots: list[type[ApiModel]] = [HospitalSpec, FederationRoundSpec, FederationSpec]
    rules = {rule["rule"] for root in roots for model in models_in(root) for rule in rules_of(model)}
    assert rules == set(RULES)


@pytest.mark.parametrize(
    "spec",
    [
        ROUND,
        ROUND | MIM | {"pretraining": {}, "serverDataset": POOL},
        ROUND | {"participants": {"selector": {"matchLabels": {"a": "b"}}, "quorum": 9}},
        ROUND | {"distillation": {}, "serverDataset": POOL, "aggregation": {"scales": [0.5, 1]}},
        ROUND | {"aggregation": {"encoding": {"format": "top-k", "density": 0.1}}},
    ],
)
def test_a_valid_round_has_no_problems(spec: dict[str, Any]) -> None:
    assert problems(FederationRoundSpec.model_validate(spec), "spec") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": {"parent": {}}}, "spec.model.parent: model.parent needs exactly one of globalModel"),
        ({"model": {"parent": {"init": "random", "globalModel": "m"}}}, "spec.model.parent: model.parent needs"),
        ({"participants": {}}, "spec.participants: participants needs exactly one of hospitals"),
        ({"participants": {"hospitals": [A], "quorum": 2}}, "spec.participants.quorum: participants.quorum must be"),
        ({"participants": {"hospitals": [A, A]}}, "spec.participants.hospitals[1]: hospital.a is named twice"),
        (MIM, "spec.pretraining: pretraining must be set if and only if model.parent.init is mim"),
        ({"pretraining": {}, "serverDataset": POOL}, "spec.pretraining: pretraining must be set if and only if"),
        (MIM | {"pretraining": {}}, "spec.serverDataset: pretraining needs serverDataset"),
        ({"distillation": {}}, "spec.serverDataset: distillation needs serverDataset"),
        ({"aggregation": {"scales": [0.5, 1]}}, "spec.serverDataset: more than one of aggregation.scales needs"),
        (
            {"aggregation": {"encoding": {"format": "int8", "density": 0.1}}},
            "spec.aggregation.encoding.density: encoding.density is an option of encoding.format top-k alone",
        ),
        ({"deadline": "9s"}, "spec.deadline: deadline must be at least 10s"),
    ],
)
def test_a_problem_of_a_round_names_the_field_and_what_is_allowed(change: dict[str, Any], problem: str) -> None:
    (found,) = problems(FederationRoundSpec.model_validate(ROUND | change), "spec")
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stages": [STAGE | {"participants": {}}]}, "spec.stages[0].participants: participants needs exactly one"),
        ({"stages": [STAGE | {"deadline": "9s"}]}, "spec.stages[0].deadline: deadline must be at least 10s"),
        ({"stages": [STAGE | {"distillation": {}}]}, "spec.serverDataset: distillation, of the federation or of"),
        ({"stages": [STAGE | {"aggregation": {"scales": [1, 2]}}]}, "spec.serverDataset: more than one of"),
        ({"stages": [STAGE | {"rounds": 400}, STAGE | {"name": "b", "rounds": 101}]}, "spec.stages: all stages"),
        ({"stopEarly": {}}, "spec.serverDataset: stopEarly needs serverDataset"),
    ],
)
def test_a_problem_of_a_federation_names_the_stage(change: dict[str, Any], problem: str) -> None:
    (found,) = problems(FederationSpec.model_validate(FEDERATION | change), "spec")
    assert found.startswith(problem)


def test_a_valid_federation_has_no_problems() -> None:
    assert problems(FederationSpec.model_validate(FEDERATION), "spec") == []


def test_noise_of_a_hospital_needs_a_clip_norm() -> None:
    assert problems(HospitalSpec.model_validate(HOSPITAL), "spec") == []
    hospital = HospitalSpec.model_validate(HOSPITAL | {"privacy": {"noiseMultiplier": 1}})
    (found,) = problems(hospital, "spec")
    assert found.startswith("spec.privacy.clipNorm: privacy.noiseMultiplier above 0 needs privacy.clipNorm")
