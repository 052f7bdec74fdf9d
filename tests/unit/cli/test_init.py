"""What ``umim init`` writes is valid as it stands, and with every optional field switched on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from umim.api.federation import FederationSpec
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec
from umim.cli.main import app
from umim.cli.simulate import read_files
from umim.cli.skeleton import WIDTH, Choices, _nested, skeleton, switched_on
from umim.simulation.resources import check_campaign, parse_documents

KINDS: dict[str, type[BaseModel]] = {
    "federation": FederationSpec,
    "round": FederationRoundSpec,
    "hospital": HospitalSpec,
}


def written(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid_with_its_comments_stripped(kind: str) -> None:
    text = written(kind)
    campaigns, hospitals = parse_documents([yaml.safe_load(without_comments(text))], kind)
    assert len(campaigns) + len(hospitals) == 1
    assert yaml.safe_load(text) == yaml.safe_load(without_comments(text))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_valid_with_every_optional_field_switched_on(kind: str) -> None:
    on = switched_on(written(kind))
    assert "\n#" not in "\n".join(line.lstrip() for line in on.splitlines() if not line.lstrip().startswith("# "))
    campaigns, hospitals = parse_documents([yaml.safe_load(on)], kind)
    assert len(campaigns) + len(hospitals) == 1
    assert len(on.splitlines()) > len(without_comments(on).splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_each_optional_field_or_block_can_be_switched_on_alone(kind: str) -> None:
    lines = written(kind).splitlines()
    depths = [len(line) - len(line.lstrip()) for line in lines]
    off = [number for number, line in enumerate(lines) if is_off(line)]
    assert len(off) > 5
    block = -1
    for number in off:
        if number <= block:  # a field of a block that was switched on as a whole
            continue
        below = (one for one in range(number + 1, len(lines)) if depths[one] <= depths[number])
        block = next(below, len(lines)) - 1 if lines[number].endswith(":") else number
        alone = [switched_on(line).rstrip("\n") if number <= one <= block else line for one, line in enumerate(lines)]
        KINDS[kind].model_validate(yaml.safe_load("\n".join(alone))["spec"])


def is_off(line: str) -> bool:
    return switched_on(line).rstrip("\n") != line


@pytest.mark.parametrize(("kind", "model"), KINDS.items())
def test_every_field_of_the_resource_is_there(kind: str, model: type[BaseModel]) -> None:
    text = written(kind)
    for name in model.model_fields:
        alias = model.model_fields[name].alias or name
        assert any(line.lstrip(" #-").startswith((f"{alias}:", f"{alias},")) for line in text.splitlines()), alias


@pytest.mark.parametrize("kind", ["federation", "round"])
def test_the_operator_would_accept_it(kind: str) -> None:
    (campaign,), _ = parse_documents([yaml.safe_load(switched_on(written(kind)))], kind)
    _, (first,) = parse_documents([yaml.safe_load(written("hospital"))], "hospital")
    _, (second,) = parse_documents([yaml.safe_load(written("hospital", "-n", "hospital-b"))], "hospital")
    check_campaign(campaign, {first.site: first, second.site: second})


def test_the_files_can_be_simulated_together(tmp_path: Path) -> None:
    for number, arguments in enumerate((["round"], ["hospital"], ["hospital", "-n", "hospital-b"])):
        (tmp_path / f"{number}.yaml").write_text(written(*arguments))
    campaign, hospitals = read_files(sorted(tmp_path.iterdir()))
    assert campaign.name == "round-1"
    assert [one.site for one in hospitals] == ["hospital-a.radiology", "hospital-b.radiology"]


def test_names_and_consent_can_be_given() -> None:
    one = yaml.safe_load(written("hospital", "--name", "ct", "-n", "h", "--federation", "x", "--federation", "y"))
    assert one["metadata"] == {"name": "ct", "namespace": "h"}
    assert one["spec"]["federations"] == ["x", "y"]


@pytest.mark.parametrize("name", ["Big", "a b", "x: y", "", "a" * 300])
def test_a_name_that_the_api_server_refuses_is_refused_here(name: str) -> None:
    done = CliRunner().invoke(app, ["init", "round", "--name", name])
    assert done.exit_code == 78
    assert done.stdout == ""
    assert "metadata.name" in done.stderr


def test_no_line_is_too_wide() -> None:
    for kind in KINDS:
        prose = [line for line in written(kind).splitlines() if line.lstrip().startswith("# ")]
        assert max(len(line) for line in prose) <= WIDTH + 10


class _Inner(BaseModel):
    must: str
    may: int | None = None


class _Outer(BaseModel):
    """A resource with a field of which nobody has said an example."""

    new: Annotated[str | None, Field(description="A new field.")] = None
    block: Annotated[_Inner | None, Field(description="A new block.")] = None
    items: Annotated[list[_Inner], Field(description="Some.")] = Field(default_factory=list)


def test_a_new_field_without_an_example_is_named_in_prose_and_nothing_becomes_invalid() -> None:
    lines = skeleton(_Outer, Choices({}), 2)
    assert lines == ["  # new: A new field.", "  # block: A new block.", "  # Some.", "  #items: []"]
    assert yaml.safe_load(switched_on("\n".join(lines))) == {"items": []}


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (_Inner, (_Inner, False)),
        (_Inner | None, (_Inner, False)),
        (list[_Inner], (_Inner, True)),
        (Annotated[list[_Inner], 1] | None, (_Inner, True)),
        (dict[str, int], (None, False)),
        (int, (None, False)),
    ],
)
def test_models_in_types_are_found(annotation: Any, found: tuple[type[BaseModel] | None, bool]) -> None:
    assert _nested(annotation) == found
