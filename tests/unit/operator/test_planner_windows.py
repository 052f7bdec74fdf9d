"""Time windows of a hospital: outside of them its site waits, and that is no failure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim.errors import PolicyError
from umim_operator.state import Observed

ROUND = make.spec(deadline="48h")
HOUR = timedelta(hours=1)
"""make.NOW is noon of a Sunday."""


def seen(opens: str, closes: str) -> Observed:
    """What is there when hospital A has one time window every day."""
    window = {"opens": opens, "closes": closes}
    return make.observed(hospitals=make.hospitals() | {A: make.hospital(A, timeWindows=[window])})


def test_a_site_waits_for_its_window_and_the_round_does_not_give_it_up() -> None:
    night = seen("20:00", "06:00")
    next_ = make.step(ROUND, make.accepted(ROUND, night), night)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason) == ("Pending", "OutsideTimeWindow")
    assert site.message == "The hospital's spec.timeWindows are closed until 2026-03-01T20:00:00Z."
    assert make.launched(next_) == [(B, 1), (C, 1)]
    assert make.condition(next_.status, "QuorumReached").reason == "WaitingForUpdates"
    later = make.step(ROUND, next_.status, replace(night, jobs=(make.job("site", B), make.job("site", C))), 8 * HOUR)
    assert make.launched(later) == [(A, 1)]
    site = make.site(later.status, A)
    assert (site.phase, site.reason, site.message) == ("Running", "Launched", None)


def test_the_planner_looks_again_when_a_window_opens_and_when_it_closes() -> None:
    night = seen("20:00", "06:00")
    alone = make.spec(sites=(A,), participants={"quorum": 1}, deadline="48h")
    waiting = make.step(alone, make.accepted(alone, night), night)
    assert waiting.look_again == 8 * HOUR
    soon = seen("06:00", "12:00")
    running = make.step(alone, make.accepted(alone, soon), soon, -3 * SECOND)
    assert make.launched(running) == [(A, 1)]
    assert running.look_again == 3 * SECOND


def test_a_job_is_stopped_when_the_window_closes_and_goes_on_in_the_next_without_a_failure() -> None:
    day = seen("06:00", "14:00")
    status = make.step(ROUND, make.accepted(ROUND, day), day).status
    running = replace(day, jobs=tuple(make.job("site", name) for name in (A, B, C)))
    open_ = make.step(ROUND, status, running, HOUR)
    assert make.stopped(open_) == []
    closed = make.step(ROUND, open_.status, running, 2 * HOUR)
    assert make.stopped(closed) == [make.job("site", A).name]
    site = make.site(closed.status, A)
    assert (site.phase, site.reason, site.failures) == ("Pending", "OutsideTimeWindow", 0)
    next_day = make.step(ROUND, closed.status, replace(running, jobs=running.jobs[1:]), 18 * HOUR)
    assert make.launched(next_day) == [(A, 2)]
    assert make.site(next_day.status, A).failures == 0


def test_a_job_that_ended_by_itself_at_the_close_is_no_failure_either() -> None:
    day = seen("06:00", "14:00")
    status = make.step(ROUND, make.accepted(ROUND, day), day).status
    running = replace(day, jobs=tuple(make.job("site", name) for name in (A, B, C)))
    gone = make.ended(running, failed=[A], exit_code=75, message="closed")
    site = make.site(make.step(ROUND, status, gone, 2 * HOUR).status, A)
    assert (site.phase, site.reason, site.failures) == ("Pending", "OutsideTimeWindow", 0)


def test_an_update_that_was_committed_before_the_close_counts() -> None:
    day = seen("06:00", "14:00")
    status = make.step(ROUND, make.accepted(ROUND, day), day).status
    running = replace(day, jobs=tuple(make.job("site", name) for name in (A, B, C)))
    done = replace(make.ended(running, succeeded=[A]), updates=make.updates(A))
    assert make.site(make.step(ROUND, status, done, 3 * HOUR).status, A).phase == "Succeeded"


def test_a_job_outlives_its_window_no_longer_than_the_deadline_even_without_the_operator() -> None:
    day = seen("06:00", "14:00")
    launches = make.step(ROUND, make.accepted(ROUND, day), day).launches
    grace = timedelta(seconds=30)
    assert [launch.time_left - grace for launch in launches] == [2 * HOUR, 48 * HOUR, 48 * HOUR]


def test_a_site_whose_window_never_opens_is_late_at_the_deadline() -> None:
    night = seen("20:00", "06:00")
    short = make.spec(deadline="1h")
    status = make.step(short, make.accepted(short, night), night).status
    site = make.site(make.step(short, status, night, HOUR).status, A)
    assert (site.phase, site.reason) == ("Late", "DeadlineExceeded")


def test_a_job_that_the_hospitals_own_policy_refuses_is_not_tried_again() -> None:
    status, running = make.training(ROUND)
    message = "PolicyError: privacy.clipNorm is None, the hospital's policy has 1.0"
    refused = make.ended(running, failed=[A], exit_code=PolicyError.exit_code, message=message)
    next_ = make.step(ROUND, status, refused)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason, site.message) == ("Failed", "PolicyRefused", message)
    assert make.launched(next_) == []
