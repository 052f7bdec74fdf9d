"""Queues of Kueue: a Job that is suspended waits for quota, and that is no failure. The operator never resumes one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim_operator.state import Observed

ROUND = make.spec(queueName="server")
FULL = "LocalQueue umim: couldn't assign flavors to pod set main: insufficient unused quota for cpu, 1 more needed"


def queued(*sites: str, spec: FederationRoundSpec = ROUND) -> tuple[FederationRoundStatus, Observed]:
    """A round whose Jobs have just been launched; those of these sites wait in a queue, the others run."""
    hospitals = make.hospitals() | {site: make.hospital(site, queueName="umim") for site in sites}
    seen = make.observed(hospitals=hospitals)
    status = make.step(spec, make.accepted(spec, seen), seen).status
    jobs = [make.job("site", site) for site in (A, B, C)]
    waiting = [replace(job, suspended=True, message=FULL) if job.site in sites else job for job in jobs]
    return status, replace(seen, jobs=tuple(waiting))


def test_the_launch_of_a_site_names_the_queue_of_its_hospital_and_of_no_other() -> None:
    seen = make.observed(hospitals=make.hospitals() | {A: make.hospital(A, queueName="umim")})
    next_ = make.step(ROUND, make.accepted(ROUND, seen), seen)
    assert {launch.site: launch.queue for launch in next_.launches} == {A: "umim", B: None, C: None}


def test_a_site_that_is_launched_into_a_queue_is_queued_at_once() -> None:
    status, _ = queued(A)
    site = make.site(status, A)
    assert (site.phase, site.reason, site.attempt) == ("Queued", "WaitingForQuota", 1)
    assert "LocalQueue umim" in (site.message or "")
    assert make.site(status, B).phase == "Running"


def test_a_suspended_job_is_told_with_what_kueue_says_and_is_looked_at_again() -> None:
    status, seen = queued(A)
    next_ = make.step(ROUND, status, seen)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason, site.message) == ("Queued", "WaitingForQuota", FULL)
    assert (site.attempt, site.failures) == (1, 0)
    assert (next_.launches, next_.stops) == ((), ())
    assert next_.look_again == timedelta(seconds=5)


def test_an_admitted_job_runs_and_an_event_tells_so() -> None:
    status, seen = queued(A)
    status = make.step(ROUND, status, seen).status
    admitted = replace(seen, jobs=tuple(make.job("site", site) for site in (A, B, C)))
    next_ = make.step(ROUND, status, admitted)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason, site.message, site.attempt) == ("Running", "JobRunning", None, 1)
    assert [event.reason for event in next_.events if A in event.message] == ["JobRunning"]


def test_a_job_that_kueue_takes_back_is_queued_again_without_a_failure() -> None:
    status, seen = make.training(ROUND)
    status = make.step(ROUND, status, seen).status
    preempted = replace(seen.jobs[0], suspended=True, message="LocalQueue umim: Preempted to accommodate others")
    next_ = make.step(ROUND, status, replace(seen, jobs=(preempted, *seen.jobs[1:])))
    site = make.site(next_.status, A)
    assert (site.phase, site.attempt, site.failures) == ("Queued", 1, 0)
    assert (next_.launches, next_.stops) == ((), ())


def test_the_round_says_that_it_stands_still_only_when_no_job_runs() -> None:
    status, seen = queued(A)
    assert make.step(ROUND, status, seen).status.reason == "Training"
    status, seen = queued(A, B, C)
    next_ = make.step(ROUND, status, seen)
    assert (next_.status.phase, next_.status.reason) == ("Training", "WaitingForQuota")
    assert make.condition(next_.status, "QuorumReached").reason == "WaitingForUpdates"


def test_time_in_the_queue_counts_towards_the_deadline_and_the_site_says_on_what_it_waited() -> None:
    status, seen = queued(A)
    status = make.step(ROUND, status, seen).status
    done = make.ended(seen, succeeded=(B, C))
    next_ = make.step(ROUND, status, replace(done, updates=make.updates(B, C)), timedelta(minutes=30))
    site = make.site(next_.status, A)
    assert (site.phase, site.reason) == ("Late", "DeadlineExceeded")
    assert site.message == f"No update before the deadline of 30m. Its Job was still waiting for quota: {FULL}"
    assert make.stopped(next_) == [make.job("site", A).name]
    assert next_.status.phase == "Aggregating"


def test_a_round_that_fails_stops_the_jobs_in_the_queue() -> None:
    status, seen = queued(A)
    status = make.step(ROUND, status, seen).status
    next_ = make.step(ROUND, status, seen, timedelta(minutes=30))
    assert next_.status.phase == "Failed"
    assert make.job("site", A).name in make.stopped(next_)


def test_a_suspended_round_takes_its_jobs_out_of_the_queue() -> None:
    status, seen = queued(A)
    status = make.step(ROUND, status, seen).status
    next_ = make.step(make.spec(queueName="server", suspend=True), status, seen)
    assert make.job("site", A).name in make.stopped(next_)
    site = make.site(next_.status, A)
    assert (site.phase, site.message, site.failures) == ("Pending", None, 0)


def test_a_job_of_the_queue_that_is_deleted_costs_a_retry_as_any_other() -> None:
    status, seen = queued(A)
    status = make.step(ROUND, status, seen).status
    next_ = make.step(ROUND, status, replace(seen, jobs=seen.jobs[1:]), SECOND)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason, site.failures) == ("Backoff", "JobDisappeared", 1)


def test_the_servers_jobs_come_through_the_queue_of_the_round() -> None:
    spec = make.init_spec(queueName="server")
    seen = make.observed()
    next_ = make.step(spec, make.accepted(spec, seen), seen)
    assert [(launch.role, launch.queue) for launch in next_.launches] == [("init", "server")]
    waiting = replace(seen, jobs=(make.job("init", suspended=True, message="LocalQueue server: full"),))
    told = make.step(spec, next_.status, waiting).status
    assert told.initialization is not None
    assert (told.initialization.phase, told.initialization.message) == ("Queued", "LocalQueue server: full")
    assert (told.phase, told.reason) == ("Initializing", "WaitingForQuota")
    running = make.step(spec, told, replace(seen, jobs=(make.job("init"),))).status
    assert running.initialization is not None
    assert (running.initialization.phase, running.reason) == ("Running", "Initializing")


def test_an_aggregator_in_the_queue_is_told_too() -> None:
    status, seen = make.trained(ROUND)
    *others, last = seen.jobs
    waiting = replace(seen, jobs=(*others, replace(last, suspended=True, message="LocalQueue server: full")))
    told = make.step(ROUND, status, waiting).status
    assert told.aggregation is not None
    assert (told.aggregation.phase, told.phase, told.reason) == ("Queued", "Aggregating", "WaitingForQuota")
