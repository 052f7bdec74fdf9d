"""Times, numbers and phases in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pytest

from umim.api.federation import FederationPhase, StagePhase
from umim.api.hospital import TimeWindow
from umim.api.round import JobPhase, RoundPhase, SitePhase
from umim.console import words
from umim_operator.conditions import ConditionType

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (-1, "1 second ago"),
        (-59, "59 seconds ago"),
        (-60, "1 minute ago"),
        (-7199, "1 hour ago"),
        (-86_400 * 3, "3 days ago"),
        (90, "in 1 minute"),
    ],
)
def test_a_time_is_told_in_words_and_in_full(seconds: int, said: str) -> None:
    found = words.moment(NOW + timedelta(seconds=seconds), NOW)
    assert found is not None
    assert found.relative == said


def test_a_time_is_told_in_utc_whatever_its_zone() -> None:
    found = words.moment(datetime(2026, 11, 24, 13, 0, tzinfo=timezone(timedelta(hours=2))), NOW)
    assert found is not None
    assert (found.iso, found.full) == ("2026-11-24T11:00:00Z", "24 Nov 2026, 11:00:00 UTC")


def test_no_time_is_no_moment() -> None:
    assert words.moment(None, NOW) is None


@pytest.mark.parametrize("phases", [RoundPhase, SitePhase, JobPhase, FederationPhase, StagePhase])
def test_every_phase_but_those_that_wait_has_a_shape_of_its_meaning(phases: object) -> None:
    shapes = {phase: words.state(phase).shape for phase in get_args(phases)}
    assert {phase for phase, shape in shapes.items() if shape == "waiting"} <= {"Pending", "Queued"}
    assert {shape for phase, shape in shapes.items() if phase in ("Failed", "Refused", "Excluded")} <= {"failed"}


def test_a_phase_that_is_not_known_is_shown_by_its_name() -> None:
    assert words.state("Dreaming") == words.State("Dreaming", "waiting")


@pytest.mark.parametrize("status", ["True", "False"])
def test_every_condition_is_a_sentence(status: str) -> None:
    for type_ in get_args(ConditionType):
        assert words.condition_sentence(type_, status) not in ("", f"{type_}: {status}")


def test_a_condition_that_is_not_known_is_shown_by_name_and_status() -> None:
    assert words.condition_sentence("Queued", "True") == "Queued: True"
    assert words.condition_sentence("Accepted", "Unknown") == "Accepted: unknown"


@pytest.mark.parametrize(
    ("days", "opens", "closes", "said"),
    [
        (["Mon", "Tue", "Wed", "Thu", "Fri"], "20:00", "06:00", "Mon to Fri, 20:00 to 06:00 the next day UTC"),
        (["Sun", "Sat"], "08:00", "18:00", "Sat, Sun, 08:00 to 18:00 UTC"),
        (list(words.DAYS), "01:00", "02:00", "every day, 01:00 to 02:00 UTC"),
        (["Mon", "Wed", "Thu"], "01:00", "02:00", "Mon, Wed, Thu, 01:00 to 02:00 UTC"),
    ],
)
def test_a_time_window_is_told_in_words(days: list[str], opens: str, closes: str, said: str) -> None:
    assert words.window(TimeWindow.model_validate({"days": days, "opens": opens, "closes": closes})) == said
