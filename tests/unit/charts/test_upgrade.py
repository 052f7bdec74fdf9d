"""An upgrade from the version before changes nothing that Kubernetes forbids to change, and removes no field."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack import render
from tests.unit.charts import kube
from tests.unit.charts.helm import MINIMAL, NAMESPACES, Helm, Loader

BEFORE = {
    chart: next((render.ROOT / "tests/data/charts").glob(f"{chart}-[0-9]*.tgz")) for chart in ("umim", "umim-hospital")
}
VALUES = {
    "umim": (*MINIMAL["umim"], "redis.enabled=true"),
    "umim-hospital": (
        *MINIMAL["umim-hospital"],
        "admissionPolicy.enabled=true",
        "admissionPolicy.images={localhost/umim/trainer:dev}",
    ),
}
CHARTS = sorted(BEFORE)


def render_chart(helm: Helm, chart: str, source: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the objects of a release by kind, namespace and name; not its hooks."""
    arguments = ["template", "umim", str(source), "--namespace", NAMESPACES[chart], "--no-hooks"]
    result = helm.run(*arguments, *(part for value in VALUES[chart] for part in ("--set", value)))
    assert result.returncode == 0, result.stderr
    documents = [document for document in yaml.load_all(result.stdout, Loader) if document]
    return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in documents}


@pytest.fixture(scope="module", params=CHARTS)
def versions(request: pytest.FixtureRequest, helm: Helm) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What the version before and this one render from the same values, by kind, namespace and name."""
    chart = request.param
    return render_chart(helm, chart, BEFORE[chart]), render_chart(helm, chart, render.CHARTS / chart)


def immutable(item: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an object that Kubernetes lets nobody change."""
    spec = item.get("spec", {})
    match item["kind"]:
        case "Deployment":
            return {"selector": spec["selector"]}
        case "PersistentVolumeClaim":
            return {key: value for key, value in spec.items() if key != "resources"}
        case "Service":
            return {"type": spec.get("type"), "clusterIP": spec.get("clusterIP")}
        case "RoleBinding" | "ClusterRoleBinding":
            return {"roleRef": item["roleRef"]}
        case "Secret":
            return {"type": item["type"], "keys": sorted(item["data"])}
        case "CustomResourceDefinition":
            return {"group": spec["group"], "scope": spec["scope"], "kind": spec["names"]["kind"]}
    return {}


def test_what_the_version_before_made_is_still_there_with_its_immutable_fields(
    versions: tuple[dict[Any, Any], dict[Any, Any]],
) -> None:
    before, now = versions
    assert {kind for kind, _, _ in before} >= {"Role", "RoleBinding"}
    for key, item in before.items():
        assert key in now, f"{key} is gone: an upgrade deletes it, with what it holds"
        assert immutable(now[key]) == immutable(item), key


def test_pods_are_still_found_by_the_selectors_of_the_version_before(
    versions: tuple[dict[Any, Any], dict[Any, Any]],
) -> None:
    before, now = versions
    for key, item in before.items():
        if key[0] == "Deployment":
            labels = now[key]["spec"]["template"]["metadata"]["labels"]
            assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and type of every field of a schema."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, child.get("type", "")
        yield from fields(child.get("items", child), here)


def required(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the path of every field that must be set."""
    for name in schema.get("required", []):
        yield f"{path}.{name}"
    for name, child in schema.get("properties", {}).items():
        yield from required(child.get("items", child), f"{path}.{name}")


def test_no_stored_version_and_no_field_of_a_resource_is_removed_or_becomes_required(helm: Helm) -> None:
    before = kube.of_kind(render_chart(helm, "umim", BEFORE["umim"]).values(), "CustomResourceDefinition")
    now = kube.of_kind(render_chart(helm, "umim", render.CHARTS / "umim").values(), "CustomResourceDefinition")
    assert before.keys() <= now.keys()
    for name, crd in before.items():
        for version in crd["spec"]["versions"]:
            (same,) = [item for item in now[name]["spec"]["versions"] if item["name"] == version["name"]]
            assert same["served"], f"{name} {version['name']} is no longer served"
            old, new = (item["schema"]["openAPIV3Schema"] for item in (version, same))
            assert set(fields(old)) <= set(fields(new)), f"{name}: a field is gone or has another type"
            fresh = {path for path, _ in fields(new)} - {path for path, _ in fields(old)}
            assert {path for path in required(new) if path not in fresh} <= set(required(old)), name


def test_a_value_that_was_allowed_is_still_allowed(helm: Helm) -> None:
    before = kube.of_kind(render_chart(helm, "umim", BEFORE["umim"]).values(), "CustomResourceDefinition")
    now = kube.of_kind(render_chart(helm, "umim", render.CHARTS / "umim").values(), "CustomResourceDefinition")
    for name, crd in before.items():
        (old,), (new,) = (item["spec"]["versions"] for item in (crd, now[name]))
        allowed = dict(enums(new["schema"]["openAPIV3Schema"]))
        for path, values in enums(old["schema"]["openAPIV3Schema"]):
            assert values <= allowed.get(path, values), f"{name}{path}"


def enums(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield the path of every field with a list of allowed values, and that list."""
    for name, child in schema.get("properties", {}).items():
        inner = child.get("items", child)
        if "enum" in inner:
            yield f"{path}.{name}", set(inner["enum"])
        yield from enums(inner, f"{path}.{name}")


def test_the_values_of_the_version_before_are_still_taken(helm: Helm, tmp_path: Path) -> None:
    for chart, source in BEFORE.items():
        shown = subprocess.run([helm.binary, "show", "values", source], capture_output=True, text=True, check=True)
        file = tmp_path / f"{chart}.yaml"
        file.write_text(shown.stdout)
        arguments = ["template", "umim", str(render.CHARTS / chart), "--namespace", NAMESPACES[chart]]
        sets = [part for value in VALUES[chart] for part in ("--set", value)]
        result = helm.run(*arguments, "--values", str(file), *sets)
        assert result.returncode == 0, result.stderr
