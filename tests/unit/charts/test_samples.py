"""manifests/samples: what a user copies must be valid and must explain each field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hack import render
from umim.aggregation.names import check_aggregation
from umim.api.base import ApiModel
from umim.api.federation import FederationSpec, StopEarlySpec
from umim.api.hospital import DatasetSpec, HospitalSpec
from umim.api.round import AggregationSpec, FederationRoundSpec, TrainingSpec
from umim.distillation.names import DISTILLERS, check_distillation
from umim.rounds.campaign import campaign_rounds, round_spec
from umim.rounds.validity import problems

SAMPLES = render.ROOT / "manifests/samples"


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def names(model: type[ApiModel]) -> set[str]:
    return {str(field.alias) for field in model.model_fields.values()}


def test_the_hospital_sample_is_valid_and_shows_every_field() -> None:
    spec = load(SAMPLES / "hospital.yaml")["spec"]
    HospitalSpec.model_validate(spec)
    assert set(spec) == names(HospitalSpec)
    assert set(spec["data"]) == names(DatasetSpec)


def test_the_round_sample_is_valid_and_shows_every_field() -> None:
    spec = load(SAMPLES / "federationround.yaml")["spec"]
    assert problems(FederationRoundSpec.model_validate(spec), "spec") == []
    assert set(spec) == names(FederationRoundSpec)
    assert set(spec["training"]) == names(TrainingSpec) - {"differentialPrivacy"}
    assert set(spec["aggregation"]) == names(AggregationSpec) - {"clipNorm"}


def test_the_federation_sample_is_valid_and_shows_every_field() -> None:
    spec = load(SAMPLES / "federation.yaml")["spec"]
    assert problems(FederationSpec.model_validate(spec), "spec") == []
    assert set(spec) == names(FederationSpec)
    assert set(spec["stopEarly"]) == names(StopEarlySpec)
    assert len(spec["stages"]) == 3


def test_the_sample_of_the_method_is_valid_and_shows_its_parts_in_every_round() -> None:
    document = load(SAMPLES / "federation-umim.yaml")
    spec = FederationSpec.model_validate(document["spec"])
    assert problems(spec, "spec") == []
    rounds = campaign_rounds(document["metadata"]["name"], spec)
    assert len(rounds) > len(spec.stages) >= 3
    for one in rounds:
        made = round_spec(spec, one, "parent")
        check_aggregation(made.aggregation, made.participants.quorum)
        assert made.aggregation.strategy == "ties"
        assert len(made.aggregation.scales) > 1
        assert made.distillation is not None
        check_distillation(made.distillation)
        assert set(made.distillation.options) == set(DISTILLERS["features"])


def test_the_hospital_sample_is_what_the_chart_makes_of_its_sample_values() -> None:
    rendered = yaml.safe_load_all((render.ROOT / "manifests/rendered/umim-hospital.yaml").read_text())
    (made,) = [document for document in rendered if document["kind"] == "Hospital"]
    sample = load(SAMPLES / "hospital.yaml")
    assert HospitalSpec.model_validate(made["spec"]) == HospitalSpec.model_validate(sample["spec"])
    assert made["metadata"]["name"] == sample["metadata"]["name"]


def test_no_sample_names_a_real_host() -> None:
    for path in SAMPLES.rglob("*.yaml"):
        for word in path.read_text().split():
            host = word.partition("://")[2]
            assert not host or host.split("/")[0].split(":")[0].endswith((".example.org", ".svc")), f"{path}: {word}"
