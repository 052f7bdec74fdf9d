"""The models: what they take, what they refuse with which words, and that they survive the wire."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from umim.api.artifacts import JobResult, ModelManifest, TensorInfo, TensorsFile, UpdateManifest
from umim.api.base import (
    DURATION_PATTERN,
    LONGEST_DURATION,
    ApiModel,
    Condition,
    HospitalReference,
    format_duration,
    parse_duration,
)
from umim.api.globalmodel import Contributor, GlobalModelSpec, RoundReference
from umim.api.hospital import HospitalSpec, HospitalStatus, Participation
from umim.api.round import FederationRoundSpec, FederationRoundStatus, JobStatus, Progress, SiteStatus

ROOT = Path(__file__).parents[3]
SAMPLES = {path.stem: path for path in (ROOT / "manifests" / "samples").glob("*.yaml")}
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DIGEST = "a" * 64

# durations


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=int(LONGEST_DURATION.total_seconds())).map(lambda s: timedelta(seconds=s)))
def test_durations_survive_being_written_and_read(value: timedelta) -> None:
    text = format_duration(value)
    assert re.fullmatch(DURATION_PATTERN, text)
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("1h30m", 5400), ("24h", 86400), ("1h0m5s", 3605), ("90m", 5400)]
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "1d", "-1h", "1.5h", "30s1m", "1h ", "1h\n", "١h"])
def test_another_form_of_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write hours, minutes and seconds such as 1h30m or 45s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["876001h", "99999999h", "9999999999999999999h"])
def test_a_duration_beyond_a_hundred_years_is_refused_with_the_bound(text: str) -> None:
    with pytest.raises(ValueError, match="too long: at most 876000h"):
        parse_duration(text)


def test_parts_of_a_second_are_dropped() -> None:
    assert format_duration(timedelta(seconds=61, milliseconds=900)) == "1m1s"
    assert format_duration(timedelta(0)) == "0s"


# round trips


def condition() -> Condition:
    return Condition(
        type="Complete", status="False", reason="X", message="m", last_transition_time=NOW, observed_generation=1
    )


def file() -> TensorsFile:
    tensors = {"a": TensorInfo(shape=[2, 3], dtype="F32"), "b": TensorInfo(shape=[], dtype="I64")}
    return TensorsFile(key="k", digest=DIGEST, size_bytes=1, tensors=tensors)


def progress(**changes: Any) -> dict[str, Any]:
    body = {"epoch": 0, "epochs": 1, "step": 1, "steps": 3, "loss": 0.5, "imagesPerSecond": 1.0, "etaSeconds": 2.0}
    return {**body, "time": "2026-03-01T12:00:00Z", **changes}


def participation() -> Participation:
    return Participation(round="f/r", round_uid="u", update_digest=DIGEST, size_bytes=1, samples=1, time=NOW)


MODELS: list[ApiModel] = [
    FederationRoundSpec.model_validate(
        {"model": {"parent": {"init": "random"}}, "participants": {"selector": {"matchLabels": {"a": "b"}}}}
    ),
    FederationRoundStatus(
        observed_generation=3,
        start_time=NOW,
        conditions=[condition()],
        sites=[
            SiteStatus(name="a.b", namespace="a", hospital="b", progress=Progress.model_validate(progress())),
            SiteStatus(name="c.d", namespace="c", hospital="d", retry_time=NOW, metrics={"x": 1.0}),
        ],
        initialization=JobStatus(phase="Backoff", retry_time=NOW),
    ),
    HospitalSpec.model_validate(
        {
            "federations": [],
            "data": {"claimName": "c", "format": "npz"},
            "workClaimName": "w",
            "privacy": {"clipNorm": 1},
        }
    ),
    HospitalStatus(participations=1, last_participation=participation(), ledger=[participation()]),
    GlobalModelSpec(
        digest=DIGEST,
        object_key="k",
        size_bytes=1,
        architecture="a",
        image_size=64,
        strategy="fedavg",
        round=RoundReference(name="r", uid="u"),
        contributors=[Contributor(site="a.b", update_digest=DIGEST, samples=1)],
        metrics={"loss": 0.25},
        created=NOW,
    ),
    UpdateManifest(
        round_uid="u",
        site="a.b",
        attempt=1,
        parent_digest=DIGEST,
        architecture="a",
        image_size=64,
        file=file(),
        samples=1,
        seed=0,
        software={"umim": "0"},
        created=NOW,
    ),
    ModelManifest(
        architecture="a", image_size=64, strategy="s", file=file(), round_uid="u", seed=0, software={}, created=NOW
    ),
    JobResult(round_uid="u", message="none"),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_models_survive_the_wire(model: ApiModel) -> None:
    assert type(model).model_validate(model.to_dict()) == model
    assert type(model).model_validate_json(model.model_dump_json(by_alias=True, exclude_none=True)) == model


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_wire_form_has_camel_case_names_and_no_nulls(model: ApiModel) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for child in value.values():
                assert child is not None
                check(child)
        elif isinstance(value, list):
            for child in value:
                check(child)

    body = model.to_dict()
    check(body)
    assert not [key for key in body if "_" in key]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_models_are_frozen_and_refuse_unknown_fields(model: ApiModel) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(model).model_validate({**model.to_dict(), "surprise": 1})
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, next(iter(type(model).model_fields)), None)


def test_times_are_written_in_utc_with_whole_seconds() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert JobStatus(retry_time=local).to_dict()["retryTime"] == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_samples_are_valid(name: str) -> None:
    kinds: dict[str, type[ApiModel]] = {"FederationRound": FederationRoundSpec, "Hospital": HospitalSpec}
    for body in yaml.safe_load_all(SAMPLES[name].read_text()):
        if body["kind"] in kinds:
            kinds[body["kind"]].model_validate(body["spec"])


# refusals


def round_spec(**changes: Any) -> dict[str, Any]:
    hospitals = [{"namespace": "a", "name": "b"}]
    return {"model": {"parent": {"init": "random"}}, "participants": {"hospitals": hospitals}, **changes}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"retries": 101}, "retries"),
        ({"deadline": "1d"}, "deadline"),
        ({"ttlAfterFinished": "99999999h"}, "ttlAfterFinished"),
        ({"training": {"batchSize": 0}}, "training.batchSize"),
        ({"training": {"objective": "magic"}}, "training.objective"),
        ({"training": {"learningRate": 0}}, "training.learningRate"),
        ({"model": {"imageSize": 65, "parent": {"init": "random"}}}, "model.imageSize"),
        ({"model": {"architecture": "../x", "parent": {"init": "random"}}}, "model.architecture"),
        ({"participants": {"hospitals": [{"namespace": "A", "name": "b"}]}}, "participants.hospitals.0.namespace"),
        ({"participants": {"hospitals": []}}, "participants.hospitals"),
        ({"resources": {"limits": {"memory": "4GB"}}}, "resources.limits.memory"),
        ({"aggregation": {"strategy": "Fed Avg"}}, "aggregation.strategy"),
    ],
)
def test_a_bad_field_of_a_round_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FederationRoundSpec.model_validate(round_spec(**change))
    assert [".".join(str(part) for part in item["loc"]) for item in caught.value.errors()] == [field]


@pytest.mark.parametrize("path", ["/etc", "../up", "a/../b", "a//b", ".hidden", "a/", ""])
def test_a_path_that_leaves_its_volume_is_refused(path: str) -> None:
    data = {"claimName": "c", "format": "npz", "path": path}
    with pytest.raises(ValidationError, match=r"data\.path"):
        HospitalSpec.model_validate({"federations": [], "data": data, "workClaimName": "w"})


@pytest.mark.parametrize("field", ["loss", "imagesPerSecond", "etaSeconds"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_progress_that_json_cannot_hold_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Progress.model_validate(progress(**{field: float(value)}))


@pytest.mark.parametrize("field", ["epoch", "epochs", "step", "steps"])
def test_progress_that_the_api_server_cannot_store_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=r"must be less than 2\*\*63"):
        Progress.model_validate(progress(**{field: 2**63}))


@pytest.mark.parametrize("field", ["loss", "imagesPerSecond"])
def test_progress_may_come_without_loss_and_throughput(field: str) -> None:
    body = progress()
    del body[field]
    assert Progress.model_validate(body).to_dict() == body


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=1, max_value=10**6))
def test_per_cent_is_between_0_and_100_and_complete_only_at_the_end(step: int, steps: int) -> None:
    percent = Progress.model_validate(progress(step=step, steps=steps)).percent
    assert 0 <= percent <= 100
    assert (percent == 100) == (step >= steps)


def test_a_site_is_named_by_namespace_and_name() -> None:
    reference = HospitalReference(namespace="hospital-a", name="mr.unit")
    assert reference.site == "hospital-a.mr.unit"
    assert SiteStatus(name=reference.site, namespace="hospital-a", hospital="mr.unit").reference == reference
