"""The sites' Jobs: consent, launch, adoption, failure, retry, delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B, C
from umim.api.privacy import DifferentialPrivacyRecord
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim.errors import PERMANENT_EXIT_CODES, PolicyError, PrivacyBudgetError
from umim.rounds.configs import delivered
from umim_operator.planner import plan
from umim_operator.state import DamagedManifest, Observed, RetryPolicy


def failed(round_: FederationRoundSpec, **changes: Any) -> tuple[FederationRoundStatus, Observed]:
    """Site A has failed once; B and C run."""
    status, seen = make.training(round_)
    seen = make.ended(seen, failed=(A,), **changes)
    return make.step(round_, status, seen).status, seen


# launching


def test_launch_names_follow_from_round_site_and_attempt_only() -> None:
    round_ = make.spec()
    status = make.accepted(round_)
    first, second = (make.step(round_, status, make.observed()) for _ in range(2))
    assert first == second
    assert [item.reference.name for item in first.launches] == [make.job("site", name).name for name in (A, B, C)]
    assert [item.reference.namespace for item in first.launches] == ["hospital-a", "hospital-b", "hospital-c"]


def test_a_site_job_is_told_the_parent_the_training_and_the_hospitals_floor() -> None:
    seen = make.observed(hospitals=make.hospitals() | {A: make.hospital(A, privacy={"clipNorm": 1.0})})
    round_ = make.spec(training={"epochs": 7})
    launch = make.step(round_, make.accepted(round_), seen).launches[0]
    config = launch.config.to_dict()
    assert config["parent"] == {"name": "base", "digest": make.PARENT}
    assert config["training"]["epochs"] == 7
    assert config["privacy"]["clipNorm"] == 1.0
    assert config["data"]["path"] == "/data"
    assert (config["site"], config["attempt"]) == (A, 1)


def test_a_job_outlives_the_deadline_by_its_grace_only() -> None:
    round_ = make.spec()
    status, seen = failed(round_)
    late = make.step(round_, status, seen, timedelta(minutes=10))
    assert late.launches[0].time_left == timedelta(minutes=20, seconds=30)


def test_training_starts_the_clock_of_the_deadline() -> None:
    status, _ = make.training(make.spec())
    assert status.start_time == make.NOW
    assert status.phase == "Training"


def test_running_sites_show_their_newest_progress_and_are_looked_at_every_few_seconds() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(make.spec(), status, replace(seen, progress={A: make.progress(50)}))
    shown = make.site(next_.status, A).progress
    assert shown is not None
    assert shown.percent == 50
    assert next_.status.progress == "16%"
    assert next_.look_again == 5 * SECOND


def test_progress_stays_when_redis_does_not_answer() -> None:
    status, seen = make.training(make.spec())
    status = make.step(make.spec(), status, replace(seen, progress={A: make.progress(50)})).status
    assert make.site(make.step(make.spec(), status, seen).status, A).progress == make.progress(50)


def test_a_pod_that_does_not_start_says_why() -> None:
    status, seen = make.training(make.spec())
    long = "0/1 nodes are available: " + "insufficient nvidia.com/gpu, " * 100
    jobs = tuple(replace(item, reason="Unschedulable", message=long) for item in seen.jobs)
    site = make.site(make.step(make.spec(), status, replace(seen, jobs=jobs)).status, A)
    assert (site.phase, site.reason) == ("Running", "Unschedulable")
    assert site.message is not None
    assert len(site.message) == 1024
    mended = make.site(make.step(make.spec(), status, seen).status, A)
    assert (mended.reason, mended.message) == ("JobRunning", None)


# crashes


def test_a_job_that_was_launched_before_a_crash_is_adopted_and_not_launched_twice() -> None:
    round_ = make.spec()
    before = make.accepted(round_)
    seen = make.observed(jobs=(make.job("site", A),))
    next_ = make.step(round_, before, seen)
    assert make.launched(next_) == [(B, 1), (C, 1)]
    site = make.site(next_.status, A)
    assert (site.phase, site.attempt, site.job) == ("Running", 1, make.job("site", A).name)


def test_a_retry_that_was_launched_before_a_crash_is_adopted() -> None:
    round_ = make.spec()
    status, seen = failed(round_)
    seen = replace(seen, jobs=(*seen.jobs, make.job("site", A, 2)))
    next_ = make.step(round_, status, seen, 10 * SECOND)
    site = make.site(next_.status, A)
    assert (site.phase, site.attempt, site.failures, site.retry_time) == ("Running", 2, 1, None)
    assert next_.launches == ()


def test_a_committed_update_of_a_job_that_was_never_recorded_is_taken() -> None:
    round_ = make.spec()
    seen = make.observed(jobs=(make.job("site", A, outcome="succeeded"),), updates=make.updates(A))
    next_ = make.step(round_, make.accepted(round_), seen)
    assert make.site(next_.status, A).phase == "Succeeded"
    assert make.launched(next_) == [(B, 1), (C, 1)]


def test_a_committed_update_counts_although_its_job_is_gone() -> None:
    status, seen = make.training(make.spec())
    seen = replace(seen, jobs=seen.jobs[1:], updates=make.updates(A))
    next_ = make.step(make.spec(), status, seen)
    site = make.site(next_.status, A)
    assert (site.phase, site.failures, site.attempt) == ("Succeeded", 0, 1)
    assert next_.launches == ()


def test_a_committed_update_counts_although_its_job_failed_afterwards() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, failed=(A,)), updates=make.updates(A))
    assert make.site(make.step(make.spec(), status, seen).status, A).phase == "Succeeded"


def test_a_manifest_is_not_read_while_its_job_runs() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(make.spec(), status, replace(seen, updates=make.updates(A)))
    assert make.site(next_.status, A).phase == "Running"


# delivery


def test_a_delivered_update_is_shown_with_its_digest_samples_and_metrics() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    next_ = make.step(make.spec(), status, seen)
    site = make.site(next_.status, A)
    assert site.update_digest == make.update_digest(A, 1)
    assert site.samples == 100
    assert site.metrics == {"loss_before": 2.0, "loss_after": 1.0}
    assert next_.status.sites_summary == "1/2/3"


def test_a_delivery_is_written_into_the_ledger_once_and_its_secret_is_deleted() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    next_ = make.step(make.spec(), status, seen)
    (entry,) = next_.ledger
    assert entry.hospital.site == A
    assert entry.participation.update_digest == make.update_digest(A, 1)
    assert (entry.participation.round, entry.participation.size_bytes) == ("federation/stage-1", 1234)
    assert [item.name for item in next_.spent] == [make.job("site", A).name]
    again = make.step(make.spec(), next_.status, seen)
    assert (again.ledger, again.spent) == ((), ())


def test_a_finished_update_is_never_redone() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, succeeded=(A,)), updates=make.updates(A))
    status = make.step(make.spec(), status, seen).status
    gone = replace(seen, jobs=(), updates={})
    next_ = make.step(make.spec(), status, gone)
    assert make.site(next_.status, A) == make.site(status, A)
    assert A not in {item.site for item in next_.launches}


# failure and retry


def test_a_failed_site_waits_before_it_is_tried_again() -> None:
    status, seen = failed(make.spec(), message="no answer of the store", reason="Error", exit_code=75)
    site = make.site(status, A)
    assert (site.phase, site.failures, site.reason) == ("Backoff", 1, "JobFailed")
    assert site.message == "no answer of the store"
    assert site.retry_time == make.NOW + 10 * SECOND
    early = make.step(make.spec(), status, seen, 9 * SECOND)
    assert early.launches == ()
    assert make.site(early.status, A).phase == "Backoff"


def test_a_failed_site_is_launched_again_after_its_backoff() -> None:
    status, seen = failed(make.spec())
    next_ = make.step(make.spec(), status, seen, 10 * SECOND)
    assert make.launched(next_) == [(A, 2)]
    site = make.site(next_.status, A)
    assert (site.phase, site.attempt, site.failures, site.retry_time) == ("Running", 2, 1, None)


def test_the_next_look_is_not_later_than_the_end_of_the_backoff() -> None:
    status, seen = make.training(make.spec(sites=(A, B), participants={"quorum": 1}), (A, B))
    round_ = make.spec(sites=(A, B), participants={"quorum": 1})
    seen = replace(make.ended(seen, failed=(A,), succeeded=(B,)), updates=make.updates(B))
    next_ = make.step(round_, status, seen)
    assert next_.look_again == 10 * SECOND
    assert make.step(round_, next_.status, seen, 4 * SECOND).look_again == 6 * SECOND


def test_backoff_doubles_from_ten_seconds_to_six_minutes() -> None:
    policy = RetryPolicy(retries=20)
    waits = [policy.backoff(failures).total_seconds() for failures in range(1, 9)]
    assert waits == [10, 20, 40, 80, 160, 320, 360, 360]
    assert policy.backoff(100) == timedelta(minutes=6)


def test_the_secret_of_a_failed_job_is_deleted() -> None:
    status, seen = make.training(make.spec())
    next_ = make.step(make.spec(), status, make.ended(seen, failed=(A,)))
    assert [item.name for item in next_.spent] == [make.job("site", A).name]


def test_a_site_fails_when_its_retries_are_used_up() -> None:
    round_ = make.spec(retries=1)
    status, seen = failed(round_)
    status = make.step(round_, status, seen, 10 * SECOND).status
    seen = replace(seen, jobs=(*seen.jobs, make.job("site", A, 2, "failed", message="no disk")))
    next_ = make.step(round_, status, seen, 20 * SECOND)
    site = make.site(next_.status, A)
    assert (site.phase, site.failures, site.reason) == ("Failed", 2, "RetriesExhausted")
    assert site.message == "no disk No retries left (2 failed attempts, spec.retries 1)."
    assert next_.launches == ()


@pytest.mark.parametrize("code", sorted(PERMANENT_EXIT_CODES - {PolicyError.exit_code, PrivacyBudgetError.exit_code}))
def test_a_permanent_exit_code_ends_the_site_at_once(code: int) -> None:
    status, _ = failed(make.spec(), exit_code=code, message="labels.csv: column label is missing")
    site = make.site(status, A)
    assert (site.phase, site.reason, site.retry_time) == ("Failed", "PermanentError", None)
    assert site.message == "labels.csv: column label is missing"


def test_a_site_whose_budget_of_epsilon_does_not_suffice_ends_at_once_and_says_so() -> None:
    status, _ = failed(
        make.spec(), exit_code=PrivacyBudgetError.exit_code, message="epsilonBudget of the Hospital is 8"
    )
    site = make.site(status, A)
    assert (site.phase, site.reason, site.retry_time) == ("Failed", "PrivacyBudgetExceeded", None)
    assert site.message == "epsilonBudget of the Hospital is 8"


def test_the_differential_privacy_of_an_update_goes_with_it_into_status_ledger_and_model() -> None:
    status, seen = make.training(make.spec())
    record = DifferentialPrivacyRecord(
        noise_multiplier=1.1, max_grad_norm=1, sample_rate=0.1, steps=50, epsilon=2.5, delta=1e-5, epsilon_spent=4
    )
    delivered_ = {(A, 1): make.update(A, differential_privacy=record)}
    next_ = make.step(make.spec(), status, replace(make.ended(seen, succeeded=(A,)), updates=delivered_))
    assert make.site(next_.status, A).differential_privacy == record
    (entry,) = next_.ledger
    assert entry.participation.differential_privacy == record
    ((_, contributor),) = delivered(next_.status)
    assert contributor.differential_privacy == record


def test_a_job_that_somebody_deleted_counts_as_a_failure_and_is_tried_again() -> None:
    status, seen = make.training(make.spec())
    status = make.step(make.spec(), status, replace(seen, jobs=seen.jobs[1:])).status
    site = make.site(status, A)
    assert (site.phase, site.reason, site.failures) == ("Backoff", "JobDisappeared", 1)
    next_ = make.step(make.spec(), status, replace(seen, jobs=seen.jobs[1:]), 10 * SECOND)
    assert make.launched(next_) == [(A, 2)]


def test_a_job_that_succeeded_without_a_manifest_counts_as_a_failure() -> None:
    status, seen = make.training(make.spec())
    site = make.site(make.step(make.spec(), status, make.ended(seen, succeeded=(A,))).status, A)
    assert (site.phase, site.reason, site.failures) == ("Backoff", "UpdateMissing", 1)


def test_a_damaged_manifest_counts_as_one_failure_and_is_tried_again() -> None:
    status, seen = make.training(make.spec())
    damage = {(A, 1): DamagedManifest("The manifest of the update is damaged: samples: Field required")}
    seen = replace(make.ended(seen, succeeded=(A,)), updates=damage)
    next_ = make.step(make.spec(), status, seen)
    site = make.site(next_.status, A)
    assert (site.phase, site.reason, site.failures) == ("Backoff", "UpdateDamaged", 1)
    assert next_.ledger == ()
    again = make.step(make.spec(), next_.status, seen, 5 * SECOND)
    assert make.site(again.status, A).failures == 1
    assert make.launched(make.step(make.spec(), again.status, seen, 10 * SECOND)) == [(A, 2)]


# determinism


def test_the_same_inputs_give_the_same_plan_and_planning_again_changes_nothing() -> None:
    status, seen = make.training(make.spec())
    seen = replace(make.ended(seen, failed=(A,), succeeded=(B,)), updates=make.updates(B))
    first = make.step(make.spec(), status, seen)
    assert first == make.step(make.spec(), status, seen)
    again = make.step(make.spec(), first.status, seen)
    assert again.status == first.status
    assert (again.launches, again.stops, again.events, again.ledger) == ((), (), (), ())


def test_times_are_whole_seconds_so_that_a_status_survives_the_api_server() -> None:
    late = make.NOW + timedelta(microseconds=123456)
    status = plan(make.view(make.spec()), make.observed(), late).status
    assert FederationRoundStatus.model_validate(status.to_dict()) == status


def test_a_large_round_is_launched_in_steps_that_are_each_on_record_before_the_next() -> None:
    sites = [f"hospital-{number:03d}.ct" for number in range(120)]
    round_ = make.spec(sites=sites)
    seen = make.observed(hospitals=make.hospitals(sites))
    status = make.accepted(round_, seen)
    launched: list[str] = []
    for most in (50, 50, 20):
        next_ = make.step(round_, status, seen)
        names = [launch.site for launch in next_.launches]
        assert len(names) == most
        assert next_.look_again == (timedelta(0) if most == 50 else 6 * SECOND)
        launched += names
        jobs = tuple(make.job("site", name) for name in launched)
        status, seen = next_.status, replace(seen, jobs=jobs)
    assert sorted(launched) == sites
    assert make.step(round_, status, seen).launches == ()


def test_a_pod_that_was_not_looked_at_leaves_what_was_said_of_it() -> None:
    round_ = make.spec()
    status, seen = make.training(round_)
    stuck = replace(make.job("site", A), reason="Unschedulable", message="no GPU")
    status = make.step(round_, status, replace(seen, jobs=(stuck, *seen.jobs[1:]))).status
    unseen = replace(make.job("site", A), explained=False)
    next_ = make.step(round_, status, replace(seen, jobs=(unseen, *seen.jobs[1:])))
    assert (make.site(next_.status, A).reason, make.site(next_.status, A).message) == ("Unschedulable", "no GPU")


def test_what_a_look_has_left_out_is_looked_at_at_once() -> None:
    round_ = make.spec()
    status, seen = make.training(round_)
    assert make.step(round_, status, seen).look_again == 5 * SECOND
    hidden = replace(make.job("site", A), explained=False, deferred=True)
    assert make.step(round_, status, replace(seen, jobs=(hidden, *seen.jobs[1:]))).look_again == timedelta(0)


def test_an_update_whose_end_was_left_out_when_consent_was_withdrawn_counts_when_consent_returns() -> None:
    round_ = make.spec()
    status, seen = make.training(round_)
    hidden = replace(make.job("site", A), explained=False, deferred=True)
    without = make.hospitals((B, C))
    refused = make.step(round_, status, replace(seen, jobs=(hidden, *seen.jobs[1:]), hospitals=without))
    assert make.site(refused.status, A).phase == "Refused"
    back = replace(seen, jobs=seen.jobs[1:], updates=make.updates(A))
    next_ = make.step(round_, refused.status, back)
    assert make.site(next_.status, A).phase == "Succeeded"
    assert next_.launches == ()
