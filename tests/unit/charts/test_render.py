"""What is derived from the charts is up to date, and hack.render refuses what it cannot derive."""

from __future__ import annotations

import json

import pytest

from hack import render
from tests.unit.charts.helm import Helm


def test_every_derived_file_is_up_to_date(helm: Helm) -> None:
    stale = sorted(str(path.relative_to(render.ROOT)) for path in render.stale_files(helm.binary))
    assert stale == [], "run python -m hack.render"


def test_the_chart_holds_the_generated_definitions_and_no_others() -> None:
    chart = {path.name for path in (render.CHARTS / "umim/files/crds").iterdir()}
    assert chart == {path.name for path in (render.ROOT / "manifests/crds").glob("*.yaml")}
    assert len(chart) == 4


def test_every_sample_of_values_is_rendered() -> None:
    samples = {path.stem for path in (render.ROOT / "manifests/samples/values").iterdir()}
    assert samples == {job.name for job in render.RENDERS}
    assert samples == {path.stem for path in (render.ROOT / "manifests/rendered").iterdir()}


def test_values_are_read_with_the_comment_above_them() -> None:
    text = "# Of the file.\n\na:\n  # First\n  # line.\n  b: 1\n  # A whole map.\n  c: {d: 2}\n"
    assert render.read_values(text) == [
        render.Value(("a", "b"), "First line.", 1),
        render.Value(("a", "c"), "A whole map.", {"d": 2}),
    ]


def test_a_value_without_comment_is_refused_by_name() -> None:
    with pytest.raises(render.RenderError, match=r"^a\.b has no comment"):
        render.read_values("a:\n  b: 1\n")


def test_a_value_that_the_schema_lacks_is_refused_by_name() -> None:
    schema = json.dumps({"properties": {"a": {"type": "object"}}})
    with pytest.raises(render.RenderError, match=r"^a\.b is missing in values\.schema\.json"):
        render.describe_schema(schema, [render.Value(("a", "b"), "What for.", 1)])


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(render.RenderError, match=r"^README\.md lacks the lines"):
        render.readme("no table here\n", [])


@pytest.mark.parametrize("chart", ["umim", "umim-hospital"])
def test_every_property_of_the_schema_has_a_value_and_a_description(chart: str) -> None:
    schema = json.loads((render.CHARTS / chart / "values.schema.json").read_text())
    values = render.read_values((render.CHARTS / chart / "values.yaml").read_text())

    def leaves(node: dict[str, object], path: tuple[str, ...]) -> set[tuple[str, ...]]:
        if "description" in node:
            return {path}
        properties = node["properties"]
        assert isinstance(properties, dict)
        assert node["additionalProperties"] is False, path
        return {leaf for key, below in properties.items() for leaf in leaves(below, (*path, key))}

    assert leaves(schema, ()) - {("global",)} == {value.path for value in values}
