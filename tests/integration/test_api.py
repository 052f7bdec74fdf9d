"""What a user of kubectl meets: defaults, status, columns, explanations, names."""

from __future__ import annotations

from typing import Any

import pytest

from hack.testenv.api import ApiError
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import Round
from tests.integration.conftest import changed, good_federation, good_hospital, good_model, good_round

KINDS = ("Federation", "FederationRound", "Hospital", "GlobalModel")


def test_every_default_is_visible_after_apply(clean: Platform) -> None:
    spec = clean.api.create(good_round(), dry_run=True)["spec"]
    assert spec["training"]["batchSize"] == 64
    assert spec["training"]["objective"] == "supervised"
    assert spec["aggregation"] == {
        "strategy": "fedavg",
        "weighting": "samples",
        "byzantine": 0,
        "mixing": "none",
        "encoding": {"format": "full"},
        "scales": [1],
        "resources": {},
    }
    assert (spec["deadline"], spec["retries"], spec["suspend"]) == ("1h", 2, False)
    hospital = clean.api.create(good_hospital(), dry_run=True)["spec"]
    assert hospital["privacy"]["allowedArtifacts"] == ["update", "metrics"]
    assert hospital["serviceAccountName"] == "umim-site"


def test_status_is_a_subresource(clean: Platform) -> None:
    made = clean.api.create({**good_hospital(), "status": {"participations": 7}})
    assert "status" not in made
    clean.api.patch("Hospital", FEDERATION, "good", {"status": {"participations": 3}}, "status")
    body = clean.api.patch(
        "Hospital", FEDERATION, "good", {"spec": {"federations": ["x"]}, "status": {"participations": 9}}
    )
    assert body["status"] == {"participations": 3}
    body = clean.api.patch(
        "Hospital", FEDERATION, "good", {"spec": {"federations": []}, "status": {"participations": 4}}, "status"
    )
    assert body["spec"]["federations"] == ["x"]


def test_applying_a_job_of_a_round_twice_changes_nothing(clean: Platform) -> None:
    """The operator applies with deterministic names: after a crash it may do so again."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "site", "image": "none", "imagePullPolicy": "Never"}]}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": FEDERATION, "name": "applied-twice"},
        "spec": {"backoffLimit": 0, "suspend": True, "template": {"spec": pod}},
    }
    first = clean.api.apply(body)
    second = clean.api.apply(body)
    clean.api.delete("Job", FEDERATION, "applied-twice")
    assert (second["metadata"]["uid"], second["metadata"]["generation"]) == (first["metadata"]["uid"], 1)
    assert second["spec"] == first["spec"]


def test_an_unknown_field_is_named(platform: Platform) -> None:
    with pytest.raises(ApiError, match=r"unknown field \"spec\.trainning\""):
        platform.api.create(changed(good_round(), "spec.trainning", {}), dry_run=True)


@pytest.fixture(scope="module")
def waiting(platform: Platform) -> Round:
    """A round that waits for its parent model."""
    round_ = Round.create(platform, good_round("waiting"))
    round_.wait("the reason", lambda status: status.get("reason") == "ParentNotFound")
    return round_


def test_kubectl_get_shows_the_state_at_a_glance(platform: Platform, waiting: Round) -> None:
    head, *rows = platform.run_kubectl("get", "fround", "-n", FEDERATION).splitlines()
    assert head.split() == ["NAME", "PHASE", "SITES", "PROGRESS", "MODEL", "AGE"]
    (row,) = [line for line in rows if line.startswith("waiting ")]
    assert row.split()[1] == "Pending"


def test_kubectl_get_wide_shows_strategy_deadline_and_reason(platform: Platform, waiting: Round) -> None:
    head, *rows = platform.run_kubectl("get", "fround", "-n", FEDERATION, "-o", "wide").splitlines()
    assert head.split()[-3:] == ["STRATEGY", "DEADLINE", "REASON"]
    (row,) = [line for line in rows if line.startswith("waiting ")]
    assert row.split()[-3:] == ["fedavg", "1h", "ParentNotFound"]


@pytest.mark.parametrize(
    ("short", "wide", "columns"),
    [
        ("fed", False, "NAME PHASE STAGE ROUND MODEL AGE"),
        ("fed", True, "NAME PHASE STAGE ROUND MODEL AGE REASON"),
        ("hosp", False, "NAME FEDERATIONS FORMAT TASK UPDATES LAST-ROUND AGE"),
        ("hosp", True, "NAME FEDERATIONS FORMAT TASK UPDATES LAST-ROUND CLIP-NORM AGE"),
        ("gmodel", False, "NAME ARCHITECTURE STRATEGY PARENT ROUND AGE"),
        ("gmodel", True, "NAME ARCHITECTURE STRATEGY PARENT ROUND DIGEST AGE"),
    ],
)
def test_kubectl_get_has_the_columns_of_campaigns_hospitals_and_models(
    clean: Platform, short: str, wide: bool, columns: str
) -> None:
    for body in (good_federation(), good_hospital(), good_model()):
        clean.api.create(body)
    output = ["-o", "wide"] if wide else []
    head = clean.run_kubectl("get", short, "-n", FEDERATION, *output).splitlines()[0]
    assert head.split() == columns.split()


def test_conditions_carry_the_generation_that_they_are_about(waiting: Round) -> None:
    body = waiting.body
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
    assert {item["observedGeneration"] for item in body["status"]["conditions"]} == {body["metadata"]["generation"]}


def test_the_operator_holds_the_round_with_its_finalizer_and_lets_it_go(platform: Platform) -> None:
    round_ = Round.create(platform, good_round("held"))
    round_.wait("a status", lambda status: status.get("phase") == "Pending")
    assert round_.body["metadata"]["finalizers"] == ["umim.dev/cleanup"]
    round_.delete()
    assert platform.api.find("FederationRound", FEDERATION, "held") is None


@pytest.mark.parametrize("short", ["fed", "fround", "gmodel", "hosp", "umim"])
def test_short_names_and_the_category_work(platform: Platform, short: str) -> None:
    platform.run_kubectl("get", short, "-A")


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_explain_describes_every_field(platform: Platform, kind: str) -> None:
    text = platform.run_kubectl("explain", kind.lower(), "--recursive")
    assert "<empty>" not in text.replace("<empty>\n\n", "", 1)
    schema = _schema(platform, kind)
    missing = [path for path, node in _fields(schema, kind) if not node.get("description")]
    assert missing == []


@pytest.mark.parametrize(
    "path", ["fround.spec.training.learningRate", "fround.spec.deadline", "hosp.spec.privacy.clipNorm"]
)
def test_kubectl_explain_names_unit_and_default(platform: Platform, path: str) -> None:
    assert "Default:" in platform.run_kubectl("explain", path)


def _schema(platform: Platform, kind: str) -> dict[str, Any]:
    body = platform.api.get("CustomResourceDefinition", "", f"{kind.lower()}s.umim.dev")
    schema: dict[str, Any] = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _fields(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, child in schema.get("properties", {}).items():
        if (path.count("."), name) != (0, "metadata"):
            found.append((f"{path}.{name}", child))
            found += _fields(child.get("items", child), f"{path}.{name}")
    return found
