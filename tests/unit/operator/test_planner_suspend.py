"""Suspension in every phase: what runs is stopped, nothing is lost, a stopped attempt is no failure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C

SUSPENDED = make.spec(suspend=True)


def test_a_round_that_is_created_suspended_is_accepted_and_launches_nothing() -> None:
    status = make.accepted(SUSPENDED)
    next_ = make.step(SUSPENDED, status, make.observed())
    assert make.condition(next_.status, "Accepted").status == "True"
    assert make.condition(next_.status, "Suspended").status == "True"
    assert next_.status.phase == "Suspended"
    assert next_.launches == ()
    resumed = make.step(make.spec(), next_.status, make.observed(), timedelta(days=1))
    assert len(resumed.launches) == 3
    assert resumed.status.start_time == make.NOW + timedelta(days=1)


def test_suspension_while_the_start_model_is_made_stops_and_continues_it() -> None:
    round_, suspended = make.init_spec(), make.init_spec(suspend=True)
    seen = make.observed(parent=None)
    status = make.step(round_, make.accepted(round_, seen), seen).status
    seen = replace(seen, jobs=(make.job("init"),))
    paused = make.step(suspended, status, seen)
    assert make.stopped(paused) == [make.job("init").name]
    assert paused.status.initialization is not None
    assert (paused.status.initialization.phase, paused.status.initialization.failures) == ("Pending", 0)
    resumed = make.step(round_, paused.status, replace(seen, jobs=()))
    assert make.launched(resumed) == [("init", 2)]


def test_suspension_during_training_stops_the_running_sites() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(SUSPENDED, status, seen)
    assert make.stopped(next_) == [make.job("site", name).name for name in (A, B, C)]
    assert {site.phase for site in next_.status.sites} == {"Pending"}
    assert {site.reason for site in next_.status.sites} == {"Suspended"}
    assert next_.status.reason == "Suspended"
    again = make.step(SUSPENDED, next_.status, replace(seen, jobs=()))
    assert again.status == next_.status
    assert again.stops == ()


def test_resumption_starts_new_attempts_that_are_no_failures() -> None:
    status, seen = make.training(make.spec())
    status = make.step(SUSPENDED, status, seen).status
    next_ = make.step(make.spec(), status, replace(seen, jobs=()), 60 * SECOND)
    assert make.launched(next_) == [(A, 2), (B, 2), (C, 2)]
    assert {site.failures for site in next_.status.sites} == {0}
    suspended = make.condition(next_.status, "Suspended")
    assert (suspended.status, suspended.reason) == ("False", "Resumed")


def test_resumption_starts_the_deadline_anew() -> None:
    status, seen = make.training(make.spec())
    status = make.step(SUSPENDED, status, seen, timedelta(minutes=20)).status
    seen = replace(seen, jobs=())
    assert make.step(SUSPENDED, status, seen, timedelta(hours=5)).status.phase == "Suspended"
    resumed = make.step(make.spec(), status, seen, timedelta(hours=5))
    assert resumed.status.start_time == make.NOW + timedelta(hours=5)
    assert resumed.launches[0].time_left == timedelta(minutes=30, seconds=30)


def test_updates_that_were_committed_before_a_suspension_are_kept() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    paused = make.step(SUSPENDED, status, seen)
    assert make.site(paused.status, A).phase == "Succeeded"
    assert [entry.hospital.site for entry in paused.ledger] == [A]
    resumed = make.step(make.spec(), paused.status, replace(seen, jobs=()))
    assert make.launched(resumed) == [(B, 2), (C, 2)]


def test_an_update_that_is_committed_while_the_job_is_being_stopped_is_not_redone() -> None:
    status, seen = make.training(make.spec())
    status = make.step(SUSPENDED, status, seen).status
    resumed = make.step(make.spec(), status, replace(seen, jobs=(), updates=make.updates(A)))
    assert make.site(resumed.status, A).phase == "Succeeded"
    assert make.launched(resumed) == [(B, 2), (C, 2)]


def test_a_site_in_backoff_keeps_its_backoff_through_a_suspension() -> None:
    status, seen = make.training(make.spec())
    seen = make.ended(seen, failed=(A,))
    status = make.step(make.spec(), status, seen).status
    paused = make.step(SUSPENDED, status, seen).status
    assert make.site(paused, A).phase == "Backoff"
    resumed = make.step(make.spec(), paused, replace(seen, jobs=seen.jobs[:1]), 10 * SECOND)
    assert (A, 2) in make.launched(resumed)
    assert make.site(resumed.status, A).failures == 1


def test_suspension_during_aggregation_stops_and_continues_it() -> None:
    status, seen = make.trained(make.spec())
    paused = make.step(SUSPENDED, status, seen)
    assert make.stopped(paused) == [make.job("aggregate").name]
    assert make.condition(paused.status, "TrainingFinished").status == "True"
    resumed = make.step(make.spec(), paused.status, replace(seen, jobs=seen.jobs[:-1]))
    assert make.launched(resumed) == [("aggregate", 2)]


def test_jobs_that_the_status_does_not_know_yet_are_stopped_too() -> None:
    status = make.accepted(make.spec())
    seen = make.observed(jobs=(make.job("site", A),))
    paused = make.step(SUSPENDED, status, seen)
    assert make.stopped(paused) == [make.job("site", A).name]
    assert make.site(paused.status, A).attempt == 1
    assert (A, 2) in make.launched(make.step(make.spec(), paused.status, make.observed()))


def test_a_finished_round_ignores_suspension() -> None:
    status, seen = make.trained(make.spec())
    seen = replace(seen, jobs=(), **make.result("aggregate"))
    status = make.step(make.spec(), status, seen).status
    assert make.step(SUSPENDED, status, seen).status == status


def test_suspension_is_an_event_and_resumption_changes_the_condition_once() -> None:
    status, seen = make.training(make.spec())
    paused = make.step(SUSPENDED, status, seen)
    assert [event.reason for event in paused.events] == ["Suspended"]
    resumed = make.step(make.spec(), paused.status, replace(seen, jobs=()), SECOND)
    later = make.step(make.spec(), resumed.status, seen, 2 * SECOND)
    assert make.condition(later.status, "Suspended") == make.condition(resumed.status, "Suspended")
