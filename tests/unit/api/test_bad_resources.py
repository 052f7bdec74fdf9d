"""Bad resources are refused by the models and by the CRDs' schemas, and both name the field."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from tests.bad_resources import BAD, GOOD, Bad
from umim.api import crd
from umim.api.base import ApiModel
from umim.api.federation import FederationSpec
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec
from umim.rounds.validity import problems

MODELS: dict[str, type[ApiModel]] = {
    "FederationRound": FederationRoundSpec,
    "Federation": FederationSpec,
    "Hospital": HospitalSpec,
    "GlobalModel": GlobalModelSpec,
}
SCHEMAS: dict[str, Any] = {
    resource.kind: crd.crd(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for resource in crd.RESOURCES
}
CASES = [pytest.param(bad, id=bad.title) for bad in BAD]


def dotted(field: str) -> str:
    """Return a path as pydantic writes it: spec.stages.1.name."""
    return re.sub(r"\[(\w+)\]", r".\1", field)


def refusals(kind: str, spec: Any) -> list[str]:
    """Return the paths that the models complain about."""
    try:
        model = MODELS[kind].model_validate(spec)
    except ValidationError as error:
        return [".".join(["spec", *map(str, item["loc"])]) for item in error.errors()]
    if kind == "GlobalModel":
        return []  # its only rule compares with what it was before
    return [dotted(problem.partition(":")[0]) for problem in problems(model, "spec")]


def complaints(kind: str, spec: Any) -> list[str]:
    """Return the paths that the CRD's schema complains about."""
    checker = jsonschema.Draft202012Validator(SCHEMAS[kind])
    return [".".join(["spec", *map(str, error.absolute_path)]) for error in checker.iter_errors(spec)]


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_changed_is_accepted_unchanged(kind: str) -> None:
    assert refusals(kind, GOOD[kind]) == []
    assert complaints(kind, GOOD[kind]) == []


def test_there_are_enough_of_every_kind_and_none_is_there_twice() -> None:
    assert len(BAD) >= 40
    assert {bad.kind for bad in BAD} == MODELS.keys()
    assert len({(bad.kind, bad.field, repr(bad.value)) for bad in BAD}) == len(BAD)


@pytest.mark.parametrize("bad", CASES)
def test_the_models_refuse_it_and_name_the_field(bad: Bad) -> None:
    assert dotted(bad.named) in refusals(bad.kind, bad.spec)


@pytest.mark.parametrize("bad", [case for case, bad in zip(CASES, BAD, strict=True) if bad.by == "schema"])
def test_the_schema_refuses_it_and_names_the_field(bad: Bad) -> None:
    found = complaints(bad.kind, bad.spec)
    if bad.field == "spec.created":  # only the API server checks the form of a time
        assert SCHEMAS[bad.kind]["properties"]["created"]["format"] == "date-time"
    elif not str(bad.value).endswith("\n"):  # Python's $ stands before a last newline as well, Go's does not
        assert dotted(bad.named) in found


@pytest.mark.parametrize("bad", [case for case, bad in zip(CASES, BAD, strict=True) if bad.by == "unknown"])
def test_the_schema_knows_no_such_field(bad: Bad) -> None:
    schema = SCHEMAS[bad.kind]
    *parents, last = bad.field.split(".")[1:]
    for name in parents:
        schema = schema["properties"][name]
    assert last not in schema["properties"]
    assert "x-kubernetes-preserve-unknown-fields" not in schema
