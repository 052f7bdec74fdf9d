"""Resources are parsed, and a model's lineage is only shown as far as digests agree."""

import pytest

from tests.unit.cli.samples import DIGEST, PARENT, condition, model_object, round_object
from umim.cli.resources import lineage, parse_model, parse_round, without_bookkeeping
from umim.errors import ArtifactError, ConfigError

START = parse_model(model_object("start", PARENT))
CHILD = parse_model(model_object("child", DIGEST, {"name": "start", "digest": PARENT}))


def test_a_round_without_status_can_be_shown() -> None:
    raw = round_object()
    del raw["status"]
    assert parse_round(raw).status.phase == "Pending"
    assert parse_round(raw).message == ""


def test_the_message_is_that_of_the_newest_true_condition() -> None:
    conditions = [
        condition("Accepted", "True", "accepted", 0),
        condition("Failed", "True", "quorum was not reached", 3),
        condition("Complete", "False", "not finished", 5),
    ]
    assert parse_round(round_object(conditions=conditions)).message == "quorum was not reached"


def test_the_message_of_a_refused_round_says_why() -> None:
    conditions = [condition("Accepted", "False", "no such strategy", 0), condition("Failed", "True", "failed", 1)]
    assert parse_round(round_object(conditions=conditions)).message == "no such strategy"


@pytest.mark.parametrize(("phase", "finished"), [("Complete", True), ("Failed", True), ("Suspended", False)])
def test_a_round_is_finished_when_complete_or_failed(phase: str, finished: bool) -> None:
    assert parse_round(round_object(phase=phase)).finished is finished


def test_an_object_of_another_version_names_the_field() -> None:
    raw = round_object()
    raw["spec"]["model"]["colour"] = "blue"
    with pytest.raises(ConfigError, match=r"FederationRound federation/demo-1 .*model\.colour"):
        parse_round(raw)
    broken = model_object("start", "short")
    with pytest.raises(ConfigError, match=r"GlobalModel federation/start .*digest"):
        parse_model(broken)


def test_lineage_goes_from_a_model_to_its_start_model() -> None:
    assert [one.name for one in lineage("child", [START, CHILD])] == ["child", "start"]


def test_lineage_ends_where_a_parent_is_gone() -> None:
    assert lineage("child", [CHILD]) == [CHILD]


def test_lineage_refuses_a_parent_that_is_another_model_now() -> None:
    other = parse_model(model_object("start", "ef" * 32))
    with pytest.raises(ArtifactError, match=f"digest {PARENT}, but start now has digest {'ef' * 32}"):
        lineage("child", [other, CHILD])


def test_json_output_leaves_managed_fields_out() -> None:
    raw = round_object()
    shown = without_bookkeeping(raw)
    assert "managedFields" not in shown["metadata"]
    assert shown["metadata"]["uid"] == "u-1"
    assert "managedFields" in raw["metadata"]
