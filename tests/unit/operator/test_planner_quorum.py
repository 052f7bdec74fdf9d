"""Quorum and deadline: when the sites' part of a round is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C

DEADLINE = timedelta(minutes=30)


def test_the_round_waits_for_running_sites_although_quorum_is_reached() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A, B)), updates=make.updates(A, B))
    next_ = make.step(make.spec(), status, seen)
    assert next_.status.phase == "Training"
    assert make.condition(next_.status, "QuorumReached").status == "True"
    assert make.condition(next_.status, "TrainingFinished").status == "False"
    assert next_.launches == ()


def test_all_sites_done_starts_the_aggregation() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A, B, C)), updates=make.updates(A, B, C))
    next_ = make.step(make.spec(), status, seen)
    finished = make.condition(next_.status, "TrainingFinished")
    assert (finished.status, finished.reason) == ("True", "AllSitesFinished")
    assert make.launched(next_) == [("aggregate", 1)]


def test_a_dead_site_does_not_stop_a_round_that_has_quorum() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.training(round_)
    seen = replace(make.ended(seen, succeeded=(A, B), failed=(C,)), updates=make.updates(A, B))
    next_ = make.step(round_, status, seen)
    assert make.site(next_.status, C).phase == "Failed"
    assert make.launched(next_) == [("aggregate", 1)]
    assert next_.status.sites_summary == "2/2/3"


def test_the_round_fails_at_once_when_too_few_updates_can_come() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.training(round_)
    next_ = make.step(round_, status, make.ended(seen, failed=(A, B), message="no disk"))
    failed = make.condition(next_.status, "Failed")
    assert (failed.status, failed.reason) == ("True", "QuorumNotReached")
    assert failed.message.startswith("0 updates and no more can come, the quorum is 2.")
    assert f"{A}: no disk" in failed.message
    assert next_.status.completion_time == make.NOW
    assert next_.look_again == timedelta(0), "the next look knows when its time is over"


def test_a_round_that_fails_stops_the_sites_that_still_run() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.training(round_)
    next_ = make.step(round_, status, make.ended(seen, failed=(A, B)))
    assert make.stopped(next_) == [make.job("site", C).name]
    site = make.site(next_.status, C)
    assert (site.phase, site.reason, site.failures) == ("Failed", "QuorumNotReached", 0)


def test_refused_sites_are_waited_for_while_quorum_needs_them() -> None:
    round_ = make.spec(sites=(A, B), participants={"quorum": 2})
    seen = make.observed(hospitals=make.hospitals((A,)))
    next_ = make.step(round_, make.accepted(round_), seen)
    quorum = make.condition(next_.status, "QuorumReached")
    assert (quorum.status, quorum.reason) == ("False", "WaitingForConsent")
    assert "1 updates can come, the quorum is 2." in quorum.message
    assert "There is no Hospital ultrasound" in quorum.message
    assert next_.status.phase == "Training"
    assert next_.status.reason == "WaitingForConsent"


def test_a_round_whose_hospitals_all_refuse_waits_until_the_deadline_and_then_fails() -> None:
    seen = make.observed(hospitals={})
    status = make.step(make.spec(), make.accepted(make.spec()), seen).status
    assert make.step(make.spec(), status, seen, DEADLINE - SECOND).status.phase == "Training"
    assert make.step(make.spec(), status, seen).look_again == DEADLINE
    failed = make.step(make.spec(), status, seen, DEADLINE).status
    assert (failed.phase, failed.reason) == ("Failed", "QuorumNotReached")
    assert {site.phase for site in failed.sites} == {"Refused"}


def test_refused_sites_are_not_waited_for_when_quorum_is_reached_without_them() -> None:
    round_ = make.spec()
    status, seen = make.training(round_, (A, B))
    seen = replace(make.ended(seen, succeeded=(A, B)), updates=make.updates(A, B))
    assert make.launched(make.step(round_, status, seen)) == [("aggregate", 1)]


def test_at_the_deadline_the_round_aggregates_when_quorum_holds_and_stops_late_sites() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A, B)), updates=make.updates(A, B))
    next_ = make.step(make.spec(), status, seen, DEADLINE)
    late = make.site(next_.status, C)
    assert (late.phase, late.reason) == ("Late", "DeadlineExceeded")
    assert late.message == "No update before the deadline of 30m."
    assert make.stopped(next_) == [make.job("site", C).name]
    assert make.condition(next_.status, "TrainingFinished").reason == "DeadlineExceeded"
    assert make.launched(next_) == [("aggregate", 1)]


def test_at_the_deadline_the_round_fails_without_quorum_and_stops_late_sites() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    next_ = make.step(make.spec(), status, seen, DEADLINE)
    assert next_.status.phase == "Failed"
    message = make.condition(next_.status, "Failed").message
    assert message.startswith("1 updates at the deadline of 30m, the quorum is 2.")
    assert make.stopped(next_) == [make.job("site", name).name for name in (B, C)]
    assert make.site(next_.status, A).phase == "Succeeded"


def test_an_update_that_was_committed_before_the_deadline_counts_when_it_is_seen_after_it() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A, B, C)), updates=make.updates(A, B, C))
    next_ = make.step(make.spec(), status, seen, DEADLINE + timedelta(hours=1))
    assert {site.phase for site in next_.status.sites} == {"Succeeded"}
    assert make.launched(next_) == [("aggregate", 1)]


def test_a_site_in_backoff_at_the_deadline_is_late() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, failed=(C,), succeeded=(A, B)), updates=make.updates(A, B))
    status = make.step(make.spec(), status, seen).status
    next_ = make.step(make.spec(), status, seen, DEADLINE)
    assert make.site(next_.status, C).phase == "Late"


@pytest.mark.parametrize("passed", [timedelta(0), timedelta(minutes=29)])
def test_the_next_look_is_not_later_than_the_deadline(passed: timedelta) -> None:
    round_ = make.spec(sites=(A, B), participants={"quorum": 2})
    seen = make.observed(hospitals={})
    status = make.step(round_, make.accepted(round_), seen).status
    assert make.step(round_, status, seen, passed).look_again == DEADLINE - passed


def test_an_update_committed_before_the_deadline_counts_although_its_job_is_still_ending() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A, B))
    next_ = make.step(make.spec(), status, seen, DEADLINE)
    assert make.site(next_.status, B).phase == "Succeeded"
    assert make.site(next_.status, C).phase == "Late"
    assert make.launched(next_) == [("aggregate", 1)]
