"""Time windows of a hospital: when Jobs may run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.api.hospital import TimeWindow
from umim.rounds.windows import DAYS, closes_at, opens_at

NIGHT = TimeWindow(opens="20:00", closes="06:00")
WEEKEND = TimeWindow(days=["Sat", "Sun"], opens="00:00", closes="00:00")
MORNING = TimeWindow(days=["Mon"], opens="06:00", closes="09:30")


def at(text: str) -> datetime:
    """A time in the week of Monday, 2 March 2026."""
    day, clock = text.split()
    hours, minutes = map(int, clock.split(":"))
    return datetime(2026, 3, 2, hours, minutes, tzinfo=UTC) + timedelta(days=DAYS.index(day))


@pytest.mark.parametrize(
    ("windows", "now", "closes"),
    [
        ([NIGHT], "Mon 19:59", "Mon 19:59"),
        ([NIGHT], "Mon 20:00", "Tue 06:00"),
        ([NIGHT], "Mon 05:59", "Mon 06:00"),
        ([NIGHT], "Mon 06:00", "Mon 06:00"),
        ([WEEKEND], "Fri 23:59", "Fri 23:59"),
        ([WEEKEND], "Sat 12:00", "Mon 00:00"),
        ([NIGHT, MORNING], "Mon 03:00", "Mon 09:30"),
        ([NIGHT, MORNING], "Tue 03:00", "Tue 06:00"),
        ([MORNING], "Sun 23:00", "Sun 23:00"),
    ],
)
def test_a_window_is_open_from_its_opening_until_before_its_close(
    windows: list[TimeWindow], now: str, closes: str
) -> None:
    # the Monday after the week is the first day of the next
    wanted = at(closes) if at(closes) >= at(now) else at(closes) + timedelta(days=7)
    assert closes_at(windows, at(now)) == wanted


def test_without_windows_and_with_windows_around_the_clock_nothing_ever_closes() -> None:
    assert closes_at(None, at("Mon 12:00")) is None
    assert closes_at([TimeWindow(opens="00:00", closes="00:00")], at("Mon 12:00")) is None
    assert closes_at([NIGHT, TimeWindow(opens="06:00", closes="20:00")], at("Mon 12:00")) is None


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        ([NIGHT], "Mon 12:00", "Mon 20:00"),
        ([NIGHT], "Mon 21:00", "Mon 21:00"),
        ([WEEKEND], "Mon 00:00", "Sat 00:00"),
        ([WEEKEND, MORNING], "Sun 23:59", "Sun 23:59"),
        ([MORNING], "Tue 12:00", "next Mon 06:00"),
    ],
)
def test_the_next_opening_is_the_earliest_of_all_windows(windows: list[TimeWindow], now: str, opens: str) -> None:
    later = timedelta(days=7) if opens.startswith("next ") else timedelta(0)
    assert opens_at(windows, at(now)) == at(opens.removeprefix("next ")) + later


def test_windows_are_in_utc_whatever_the_clock_says() -> None:
    elsewhere = timezone(timedelta(hours=5))
    assert closes_at([NIGHT], at("Mon 20:00").astimezone(elsewhere)) == at("Tue 06:00")


clocks = st.builds(lambda hour, minute: f"{hour:02d}:{minute:02d}", st.integers(0, 23), st.integers(0, 59))
windows_ = st.lists(
    st.builds(
        TimeWindow,
        days=st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True),
        opens=clocks,
        closes=clocks,
    ),
    min_size=1,
    max_size=4,
)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


def _is_open(windows: list[TimeWindow], now: datetime) -> bool:
    """The definition, minute by minute and without any cleverness."""
    for window in windows:
        opens, closes = (int(text[:2]) * 60 + int(text[3:]) for text in (window.opens, window.closes))
        minute = now.hour * 60 + now.minute
        today, yesterday = DAYS[now.weekday()], DAYS[now.weekday() - 1]
        if opens < closes:
            if today in window.days and opens <= minute < closes:
                return True
        elif (today in window.days and minute >= opens) or (yesterday in window.days and minute < closes):
            return True
    return False


@given(windows_, moments)
def test_open_means_what_the_windows_say(windows: list[TimeWindow], now: datetime) -> None:
    closes = closes_at(windows, now)
    assert (closes is None or closes > now) == _is_open(windows, now)


@given(windows_, moments)
def test_what_is_closed_opens_at_the_next_opening_and_closes_at_the_close(
    windows: list[TimeWindow], now: datetime
) -> None:
    opens = opens_at(windows, now)
    assert now <= opens <= now + timedelta(days=7)
    assert _is_open(windows, opens)
    if opens > now:
        assert not _is_open(windows, opens - timedelta(seconds=1))
    closes = closes_at(windows, opens)
    if closes is not None:
        assert not _is_open(windows, closes)
        assert _is_open(windows, closes - timedelta(seconds=1))
