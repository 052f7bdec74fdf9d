"""The CRDs: structural, described, with visible defaults, and equal to the files that are shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from umim.api import crd
from umim.api.base import ApiModel
from umim.api.round import FederationRoundSpec

ROOT = Path(__file__).parents[3]
CRDS = {resource.kind: crd.crd(resource) for resource in crd.RESOURCES}
KINDS = sorted(CRDS)

FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const", "propertyNames", "prefixItems"}
"""Words of JSON Schema that a structural schema does not know."""


def root(kind: str) -> dict[str, Any]:
    (version,) = CRDS[kind]["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def at(kind: str, path: str) -> dict[str, Any]:
    return dict(nodes(root(kind)))[path]


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_file_is_the_generated_one(kind: str) -> None:
    name = CRDS[kind]["metadata"]["name"]
    text = (ROOT / "manifests" / "crds" / f"{name}.yaml").read_text()
    assert yaml.safe_load(text) == CRDS[kind], "run: python -m umim.api.crd manifests/crds && python -m hack.render"


def test_the_generator_writes_one_file_a_resource(tmp_path: Path) -> None:
    crd.main(tmp_path / "new")
    written = {path.name: path.read_text() for path in (tmp_path / "new").iterdir()}
    shipped = {path.name: path.read_text() for path in (ROOT / "manifests" / "crds").iterdir()}
    assert written == shipped


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural(kind: str) -> None:
    for path, node in nodes(root(kind)):
        assert not FORBIDDEN & node.keys(), path
        assert "type" in node, path
        assert not {"properties", "additionalProperties"} <= node.keys(), path
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            assert node.get(bound) in (None, True), path


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_has_a_description(kind: str) -> None:
    for path, node in nodes(root(kind)):
        if path and path != ".metadata" and not path.endswith(("[]", "{}")):
            assert node.get("description", "").strip(), path
            assert "\n" not in node["description"], path


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_is_visible_to_the_reader(kind: str) -> None:
    for path, node in nodes(root(kind)):
        if "default" in node and node["type"] != "object":
            assert "Default:" in node["description"], path


@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_texts_that_rules_look_at_are_bounded(kind: str) -> None:
    for path, node in nodes(root(kind)["properties"]["spec"]):
        if node["type"] == "array":
            assert "maxItems" in node, path


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_has_a_message(kind: str) -> None:
    rules = [rule for _, node in nodes(root(kind)) for rule in node.get("x-kubernetes-validations", [])]
    assert rules
    for rule in rules:
        assert rule["message"].strip()
        assert rule["reason"] in {"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"}


def test_every_field_of_a_round_but_suspend_is_immutable_once_accepted() -> None:
    paths = {rule.get("fieldPath") for rule in root("FederationRound")["x-kubernetes-validations"]} - {None}
    fields = {f".spec.{field.alias}" for name, field in FederationRoundSpec.model_fields.items() if name != "suspend"}
    assert paths == fields


def test_a_default_object_is_filled_in_field_by_field() -> None:
    assert at("FederationRound", ".spec.training")["default"] == {}
    assert at("FederationRound", ".spec.training.epochs")["default"] == 1


def test_an_optional_field_is_absent_and_not_null() -> None:
    node = at("FederationRound", ".spec.ttlAfterFinished")
    assert "default" not in node
    assert "nullable" not in node
    assert "ttlAfterFinished" not in at("FederationRound", ".spec")["required"]


def test_conditions_are_a_list_by_key() -> None:
    node = at("FederationRound", ".status.conditions")
    assert (node["x-kubernetes-list-type"], node["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def test_sites_are_written_as_a_whole() -> None:
    """Their only writer is the operator; by key, a write of a thousand sites took the API server seconds."""
    assert at("FederationRound", ".status.sites")["x-kubernetes-list-type"] == "atomic"


@pytest.mark.parametrize("kind", KINDS)
def test_names_columns_and_status_follow_the_conventions(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    assert spec["group"] == "umim.dev"
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["categories"] == ["umim"]
    (version,) = spec["versions"]
    assert ("status" in version.get("subresources", {})) == (kind != "GlobalModel")
    columns = version["additionalPrinterColumns"]
    assert columns[-1]["name"] == "Age" or "Age" in [column["name"] for column in columns]
    known = {path for path, _ in nodes(root(kind))}
    for column in columns:
        assert column["jsonPath"] in known or column["jsonPath"].startswith(".metadata."), column["jsonPath"]


def test_the_columns_of_a_round_tell_its_story() -> None:
    (version,) = CRDS["FederationRound"]["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if column["priority"] == 0] == [
        "Phase",
        "Sites",
        "Progress",
        "Model",
        "Age",
    ]
    assert [column["name"] for column in columns if column["priority"] == 1] == ["Strategy", "Deadline", "Reason"]


def test_a_union_of_two_types_cannot_become_a_schema() -> None:
    class Bad(ApiModel):
        either: int | str
        """Two types."""

    with pytest.raises(ValueError, match="unpack"):
        crd.structural_schema(Bad)
