"""Times, numbers and phases in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from umim.api.hospital import TimeWindow

Shape = Literal["done", "failed", "running", "waiting", "paused", "warning", "skipped"]
"""What a state is shown by, besides its word: each has a shape of its own, so that nothing hangs on colour."""

_SHAPES: dict[str, Shape] = {
    "Complete": "done",
    "Succeeded": "done",
    "True": "done",
    "Failed": "failed",
    "Refused": "failed",
    "Excluded": "failed",
    "Late": "warning",
    "Backoff": "warning",
    "Suspended": "paused",
    "Running": "running",
    "Training": "running",
    "Initializing": "running",
    "Aggregating": "running",
    "Skipped": "skipped",
}
_STATES = {
    "Backoff": "Waiting to try again",
    "Queued": "Waiting for quota",
    "Initializing": "Making the start model",
    "Aggregating": "Merging updates",
    "Excluded": "Update excluded",
    "Late": "Too late",
}
_CONDITIONS = {
    ("Accepted", True): "The spec is accepted",
    ("Accepted", False): "The spec is not accepted",
    ("Suspended", True): "Suspended",
    ("Suspended", False): "Not suspended",
    ("TrainingFinished", True): "Training at the sites has ended",
    ("TrainingFinished", False): "Training at the sites has not ended",
    ("QuorumReached", True): "Enough updates have come",
    ("QuorumReached", False): "Not enough updates yet",
    ("Aggregated", True): "The updates are merged",
    ("Aggregated", False): "The updates are not merged",
    ("Complete", True): "Complete",
    ("Complete", False): "Not complete",
    ("Failed", True): "Failed",
    ("Failed", False): "Not failed",
    ("Reconciled", True): "The operator goes on",
    ("Reconciled", False): "The operator cannot go on",
}
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class Moment:
    """A time: for machines, in full, and how long ago or ahead."""

    iso: str
    full: str
    relative: str


@dataclass(frozen=True)
class State:
    """A phase as it is shown."""

    word: str
    shape: Shape


def state(phase: str) -> State:
    """Return the word and the shape of a phase."""
    return State(_STATES.get(phase, phase), _SHAPES.get(phase, "waiting"))


def condition_sentence(type_: str, status: str) -> str:
    """Return what a condition says, in words; of one that is not known here, its name and status."""
    return (
        _CONDITIONS.get((type_, status == "True"), f"{type_}: {status}") if status != "Unknown" else f"{type_}: unknown"
    )


def moment(at: datetime | None, now: datetime) -> Moment | None:
    """Return a time in words, or None where there is none."""
    if at is None:
        return None
    at = at.astimezone(UTC)
    ahead = at > now
    words = duration(abs(now - at))
    relative = "now" if words == "0 seconds" else f"in {words}" if ahead else f"{words} ago"
    return Moment(at.strftime("%Y-%m-%dT%H:%M:%SZ"), f"{at.day} {at.strftime('%b %Y, %H:%M:%S')} UTC", relative)


def duration(value: timedelta) -> str:
    """Return a duration in its largest unit, in words: 5 minutes, 1 hour."""
    seconds = max(0, int(value.total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return count(seconds // size, unit)
    return count(seconds, "second")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: 1 site, 3 sites, 1,200 images."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def figure(value: float | None) -> str:
    """Return a figure with four digits that count, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def window(one: TimeWindow) -> str:
    """Return a time window in words: Mon to Fri, 20:00 to 06:00 UTC."""
    numbers = sorted(DAYS.index(day) for day in one.days)
    if len(numbers) == len(DAYS):
        days = "every day"
    elif len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        days = f"{DAYS[numbers[0]]} to {DAYS[numbers[-1]]}"
    else:
        days = ", ".join(DAYS[number] for number in numbers)
    overnight = " the next day" if one.closes <= one.opens else ""
    return f"{days}, {one.opens} to {one.closes}{overnight} UTC"
