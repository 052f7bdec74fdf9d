"""What ``umim federations`` shows: the campaign at a glance, its stages with their rounds, and the lineage."""

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tests.unit.cli.samples import DIGEST, condition
from umim.cli.federations import federation_detail, federations_table
from umim.cli.resources import parse_federation
from umim.errors import ConfigError

NOW = datetime(2026, 11, 24, 12, 6, 10, tzinfo=UTC)
WHERE = "Stage 2 of 3, mri: FederationRound fed-s2-mri-r1, 2 of 3 in all, is Training."


def text(renderable: RenderableType) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(renderable)
    return console.export_text()


def federation(**status: Any) -> dict[str, Any]:
    hospitals = {"hospitals": [{"namespace": "hospital-a", "name": "neuro"}]}
    base, first = ({"name": name, "digest": DIGEST} for name in ("base-1", "fed-s1-ct-r1-1"))
    done = {"name": "fed-s1-ct-r1", "phase": "Complete", "globalModel": first, "serverMimLoss": 0.12345}
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Federation",
        "metadata": {"name": "fed", "namespace": "federation", "creationTimestamp": "2026-11-24T12:00:00Z"},
        "spec": {
            "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"init": "random"}},
            "stages": [{"name": name, "participants": hospitals} for name in ("ct", "mri", "us")],
        },
        "status": {
            "phase": "Running",
            "reason": "StageRunning",
            "stage": "2/3",
            "currentRound": "fed-s2-mri-r1",
            "frozenStages": 2,
            "startTime": "2026-11-24T12:00:00Z",
            "conditions": [
                condition("Accepted", "True", "All stages are well formed."),
                condition("Complete", "False", WHERE),
            ],
            "stages": [
                {"name": "ct", "phase": "Complete", "rounds": [done]},
                {"name": "mri", "phase": "Running", "rounds": [{"name": "fed-s2-mri-r1", "phase": "Training"}]},
                {"name": "us", "phase": "Pending"},
            ],
            "lineage": [base, first],
            "globalModel": first,
            **status,
        },
    }


def test_the_list_shows_phase_stage_round_and_model() -> None:
    shown = text(federations_table([parse_federation(federation())], NOW))
    for word in ("federation", "fed", "Running", "2/3", "fed-s2-mri-r1", "fed-s1-ct-r1-1", "6m10s"):
        assert word in shown


def test_the_description_shows_stages_rounds_losses_and_lineage() -> None:
    shown = text(federation_detail(parse_federation(federation()), NOW))
    assert WHERE in shown
    assert "base-1 -> fed-s1-ct-r1-1" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["ct", "Complete", "fed-s1-ct-r1", "Complete", "fed-s1-ct-r1-1", "0.1235"] in rows
    assert ["mri", "Running", "fed-s2-mri-r1", "Training", "-", "-"] in rows
    assert ["us", "Pending", "-", "-", "-", "-"] in rows


def test_the_message_of_a_refusal_or_of_the_end_explains_the_phase() -> None:
    refused = [condition("Accepted", "False", "Stage us: unknown strategy.")]
    assert parse_federation(federation(reason="UnknownStrategy", conditions=refused)).message.startswith("Stage us")
    failed = [condition("Failed", "True", "FederationRound x failed.", minute=2)]
    assert parse_federation(federation(phase="Failed", conditions=failed)).message == "FederationRound x failed."


def test_a_campaign_that_nobody_has_looked_at_yet_can_be_shown() -> None:
    raw = federation()
    del raw["status"]
    assert "Pending" in text(federations_table([parse_federation(raw)], NOW))
    assert "random" in text(federation_detail(parse_federation(raw), NOW))


def test_a_federation_of_another_version_says_which_tool_to_use() -> None:
    with pytest.raises(ConfigError, match=r"Federation federation/fed is of another version.*use the umim release"):
        parse_federation(federation(stages=[{"name": "ct", "phase": "Paused"}]))
