"""``umim rounds watch``: what a person sees of a round, and what the exit code says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.unit.cli.samples import condition, round_object, site
from umim.cli import render, rounds
from umim.cli.kube import Cluster
from umim.cli.main import app
from umim.cli.resources import Round, parse_round

NOW = datetime(2026, 11, 24, 12, 6, 10, tzinfo=UTC)
QUEUED = {**site("c", "heart", "Pending"), "message": "waits for a GPU"}
TRAINING = parse_round(
    round_object(sites=[site("a", "neuro", "Succeeded"), site("b", "thorax", "Running"), QUEUED], conditions=[])
)
COMPLETE = parse_round(round_object(phase="Complete"))
FAILED = parse_round(round_object(phase="Failed", conditions=[condition("Failed", "True", "1 of 2 updates", 3)]))

PICTURE = """\
federation/demo-1  Training  6m10s  1m15s of training left
  hospital-a.neuro   ━━━━━━━━━━━━━━━━━━━━━━━━  100 %  Succeeded  96 samples  loss 0.900 -> 0.450
  hospital-b.thorax  ━━━━━━━━━━━━╺━━━━━━━━━━━   50 %  Running    epoch 2/2  loss 0.700  81 images/s  1m15s left
  hospital-c.heart   ━━━━━━━━━━━━━━━━━━━━━━━━    0 %  Pending    waits for a GPU
"""


def picture(one: Round) -> str:
    console = Console(width=120, record=True, file=StringIO(), color_system="truecolor", force_terminal=True)
    console.print(render.progress_view(one, NOW))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def test_the_picture_has_a_bar_a_hospital_with_rate_and_time_left() -> None:
    assert picture(TRAINING) == PICTURE


def test_the_time_left_is_that_of_the_slowest_site_and_unknown_while_one_has_not_told() -> None:
    slow, quiet = site("b", "thorax", "Running"), site("c", "heart", "Running")
    slow["progress"] = {**slow["progress"], "etaSeconds": 900}
    del quiet["progress"]
    known = parse_round(round_object(sites=[site("a", "neuro", "Running"), slow]))
    assert "15m of training left" in picture(known)
    assert render.time_left(parse_round(round_object(sites=[slow, quiet]))) is None
    assert "of training left" not in picture(parse_round(round_object(phase="Complete", sites=[])))


def watch(monkeypatch: pytest.MonkeyPatch, states: Iterator[Round], *arguments: str) -> Any:
    class Fake:
        namespace = "federation"

        def round(self, _namespace: str, _name: str) -> Round:
            return next(states)

    monkeypatch.setattr(Cluster, "connect", lambda _context: Fake())
    monkeypatch.setattr(rounds, "POLL_SECONDS", 0.0)
    return CliRunner().invoke(app, ["rounds", "watch", "demo-1", *arguments], catch_exceptions=False)


@pytest.mark.parametrize(("end", "code"), [(COMPLETE, 0), (FAILED, 1)])
def test_the_exit_code_is_that_of_the_rounds_phase(monkeypatch: pytest.MonkeyPatch, end: Round, code: int) -> None:
    done = watch(monkeypatch, iter([TRAINING, TRAINING, end]))
    assert done.exit_code == code
    assert len(done.stdout.splitlines()) == 2  # one line a change
    assert ("1 of 2 updates" in done.stderr) is (code == 1)


def test_json_is_one_object_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    done = watch(monkeypatch, iter([TRAINING, TRAINING, FAILED]), "-o", "json")
    assert done.exit_code == 1
    assert [json.loads(line)["status"]["phase"] for line in done.stdout.splitlines()] == ["Training", "Failed"]
    assert "managedFields" not in done.stdout


def test_after_the_timeout_the_exit_code_is_124_and_the_round_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 99.0])
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: next(times), sleep=lambda _seconds: None))
    done = watch(monkeypatch, iter([TRAINING, TRAINING]), "--timeout", "50")
    assert done.exit_code == 124
    assert "it goes on" in done.stderr


def interrupted() -> Iterator[Round]:
    yield TRAINING
    raise KeyboardInterrupt


def test_an_interrupted_watch_does_not_look_like_a_failed_round(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, interrupted()).exit_code == 130
