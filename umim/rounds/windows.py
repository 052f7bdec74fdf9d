"""When a hospital lets Jobs run. Pure; the operator and the Job ask the same functions. All times are UTC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

from umim.api.hospital import Day, TimeWindow

DAYS: tuple[Day, ...] = get_args(Day)
ONE_DAY = timedelta(days=1)


def closes_at(windows: Sequence[TimeWindow] | None, now: datetime) -> datetime | None:
    """Return when the hours that are open now end; ``now`` itself where none are, None where they never end.

    Windows that touch or overlap are one.
    """
    if windows is None:
        return None
    end, limit = now, now + 8 * ONE_DAY
    for start, stop in _openings(windows, now):
        if start <= end:
            end = max(end, stop)
    return None if end >= limit else end


def opens_at(windows: Sequence[TimeWindow], now: datetime) -> datetime:
    """Return when the next window opens; ``now`` itself where one is open."""
    return max(now, min(start for start, stop in _openings(windows, now) if stop > now))


def closed_text(opens: datetime) -> str:
    """Return the sentence that says until when a hospital is closed."""
    return f"The hospital's spec.timeWindows are closed until {opens.strftime('%Y-%m-%dT%H:%M:%SZ')}."


def _openings(windows: Sequence[TimeWindow], now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield start and end of every window from yesterday for nine days, by their start: a week and what it touches."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = []
    for number in range(-1, 10):
        day = midnight + number * ONE_DAY
        for window in windows:
            if DAYS[day.weekday()] in window.days:
                start, stop = day + _clock(window.opens), day + _clock(window.closes)
                found.append((start, stop if stop > start else stop + ONE_DAY))
    yield from sorted(found)


def _clock(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
