"""Faults that a round survives or explains: found by tests/e2e/chaos, each with the rule that keeps it so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import SECOND, A, B
from tests.unit.operator.test_observe import job, pod
from umim.api.round import FederationRoundStatus
from umim.contract import Role
from umim.errors import AccessDeniedError, ArtifactError, StoreError, UmimError
from umim.telemetry import Telemetry
from umim_operator import observe
from umim_operator.attempts import MORE_MEMORY
from umim_operator.conditions import Reason, find
from umim_operator.credentials import _not_minted
from umim_operator.events import between
from umim_operator.executor import Executor
from umim_operator.kube import ConflictError
from umim_operator.measures import Measures
from umim_operator.planner import unreconciled
from umim_operator.state import JobReference, JobView, Observed

ROUND = make.spec()
GONE: dict[str, Any] = {
    "reason": "CreateContainerConfigError",
    "message": f'secret "{make.job("site", A).name}" not found',
}


# out of memory


@pytest.mark.parametrize(
    ("role", "field"),
    [("init", "spec.pretraining.resources"), ("aggregate", "spec.aggregation.resources"), ("site", "spec.resources")],
)
def test_every_role_names_the_field_that_gives_it_more_memory(role: Role, field: str) -> None:
    assert field in MORE_MEMORY[role]
    assert "limits.memory" in MORE_MEMORY[role]


def test_a_site_that_ran_out_of_memory_says_so_and_is_tried_again() -> None:
    status, seen = make.training(ROUND)
    killed = make.ended(seen, failed=(A,), reason="OOMKilled", exit_code=137, message="exit code 137 (OOMKilled)")
    site = make.site(make.step(ROUND, status, killed).status, A)
    assert (site.phase, site.reason, site.failures) == ("Backoff", "OutOfMemory", 1)
    assert "OOMKilled" in str(site.message)
    assert "resources.limits.memory" in str(site.message)


def test_a_round_whose_aggregator_always_runs_out_of_memory_names_it_in_its_failed_condition() -> None:
    once = make.spec(retries=0)
    status, seen = make.trained(once)
    killed = replace(seen.jobs[-1], outcome="failed", reason="OOMKilled", exit_code=137)
    next_ = make.step(once, status, replace(seen, jobs=(*seen.jobs[:-1], killed)))
    failed = make.condition(next_.status, "Failed")
    assert failed.reason == "AggregationFailed"
    assert "OOMKilled" in failed.message
    assert "limits.memory" in failed.message


# no Pod


def test_a_job_that_kubernetes_gives_no_pod_says_where_to_look() -> None:
    found = observe.job_view(job(startTime="2026-03-01T12:00:00Z"), [])
    assert found.reason == "PodNotCreated"
    assert "ResourceQuota" in found.message
    assert "kubectl describe job stage-1-site-f0c5fc3dd4-2 -n hospital-a" in found.message


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"startTime": "2026-03-01T12:00:00Z", "active": 1},
        {"startTime": "2026-03-01T12:00:00Z", "terminating": 1},
        {"startTime": "2026-03-01T12:00:00Z", "failed": 1},
        {"startTime": "2026-03-01T12:00:00Z", "uncountedTerminatedPods": {"succeeded": ["u"]}},
    ],
)
def test_a_job_that_has_a_pod_or_has_not_been_looked_at_says_nothing(status: dict[str, Any]) -> None:
    assert observe.job_view(job(**status), []).message == ""


def test_what_the_pod_says_comes_before_that_there_is_none() -> None:
    waiting = pod({"waiting": {"reason": "ErrImagePull", "message": "no such image"}})
    assert observe.job_view(job(startTime="2026-03-01T12:00:00Z"), [waiting]).reason == "ErrImagePull"


def test_a_site_without_a_pod_shows_it() -> None:
    status, seen = make.training(ROUND)
    stuck = replace(seen, jobs=(replace(seen.jobs[0], reason="PodNotCreated", message="no Pod"), *seen.jobs[1:]))
    site = make.site(make.step(ROUND, status, stuck).status, A)
    assert (site.phase, site.reason, site.message) == ("Running", "PodNotCreated", "no Pod")


# a Secret that is gone


def with_first(seen: Observed, **changes: Any) -> Observed:
    return replace(seen, jobs=(replace(seen.jobs[0], **changes), *seen.jobs[1:]))


def test_a_job_whose_secret_is_gone_gets_another_one_and_no_second_job() -> None:
    status, seen = make.training(ROUND)
    next_ = make.step(ROUND, status, with_first(seen, **GONE), 60 * SECOND)
    (renewal,) = next_.renewals
    assert (renewal.reference.name, renewal.site, renewal.attempt) == (make.job("site", A).name, A, 1)
    assert renewal.time_left == timedelta(minutes=29, seconds=30)
    assert (next_.launches, next_.stops) == ((), ())
    assert make.site(next_.status, A).failures == 0


def test_the_secret_of_a_job_that_somebody_deleted_goes_with_it() -> None:
    status, seen = make.training(ROUND)
    next_ = make.step(ROUND, status, replace(seen, jobs=seen.jobs[1:]))
    assert (make.site(next_.status, A).reason, make.site(next_.status, A).failures) == ("JobDisappeared", 1)
    gone = make.job("site", A)
    assert next_.spent == (JobReference(gone.namespace, gone.name),)


def test_the_secret_of_a_job_that_somebody_deleted_after_it_had_committed_goes_too() -> None:
    status, seen = make.training(ROUND)
    updates = {(A, 1): make.update(A)}
    next_ = make.step(ROUND, status, replace(seen, jobs=seen.jobs[1:], updates=updates))
    assert make.site(next_.status, A).phase == "Succeeded"
    gone = make.job("site", A)
    assert next_.spent == (JobReference(gone.namespace, gone.name),)


def test_the_aggregator_gets_another_secret_too() -> None:
    status, seen = make.trained(ROUND)
    stuck = replace(
        seen.jobs[-1],
        reason="CreateContainerConfigError",
        message=f'secret "{make.job("aggregate").name}" not found',
    )
    (renewal,) = make.step(ROUND, status, replace(seen, jobs=(*seen.jobs[:-1], stuck))).renewals
    assert (renewal.role, renewal.attempt) == ("aggregate", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "CreateContainerConfigError", "message": 'secret "another" not found'},
        {"reason": "CreateContainerConfigError", "message": 'configmap "x" not found'},
        {"reason": "ErrImagePull", "message": "no such image"},
        {**GONE, "outcome": "failed"},
    ],
)
def test_nothing_else_renews_a_secret(changes: dict[str, Any]) -> None:
    status, seen = make.training(ROUND)
    assert make.step(ROUND, status, with_first(seen, **changes)).renewals == ()


# the operator cannot go on


def told(error: str = "the disk is full", status: FederationRoundStatus | None = None) -> FederationRoundStatus:
    view = make.view(ROUND, status or make.training(ROUND)[0])
    return unreconciled(view, Reason.STORE_UNAVAILABLE, error, make.NOW)


def test_a_round_says_that_the_store_does_not_work_and_gives_one_warning() -> None:
    before = make.training(ROUND)[0]
    after = told(status=before)
    found = make.condition(after, "Reconciled")
    assert (found.status, found.reason, found.message) == ("False", "StoreUnavailable", "the disk is full")
    assert after.reason == "StoreUnavailable"
    (event,) = between(before, after)
    assert (event.type, event.reason) == ("Warning", "StoreUnavailable")


def test_a_further_failure_changes_nothing_so_that_the_status_does_not_wake_its_own_actor() -> None:
    assert told("another message", told()) == told()


def test_a_round_that_goes_on_says_so() -> None:
    _, seen = make.training(ROUND)
    next_ = make.step(ROUND, told(), seen)
    found = make.condition(next_.status, "Reconciled")
    assert (found.status, found.reason) == ("True", "Reconciled")
    assert next_.status.reason == "Training"


def test_a_round_that_never_had_trouble_has_no_such_condition() -> None:
    status, seen = make.training(ROUND)
    assert find(make.step(ROUND, status, seen).status.conditions, "Reconciled") is None


def test_a_round_that_has_ended_stays_as_it_is() -> None:
    status, seen = make.trained(ROUND)
    seen = replace(seen, jobs=(replace(seen.jobs[-1], outcome="succeeded"),), **make.result("aggregate"))
    done = make.step(ROUND, status, seen).status
    assert done.phase == "Complete"
    assert told(status=done) == done


class Broken:
    """A Kubernetes API with one round and no more, whose Jobs cannot be read for a fault of the store."""

    def __init__(self, error: UmimError, conflict: bool = False) -> None:
        self.error = error
        self.conflict = conflict
        self.written: list[Mapping[str, Any]] = []
        self.events: list[str] = []

    def get(self, _: str, namespace: str, name: str) -> dict[str, Any]:
        meta = {
            "namespace": namespace,
            "name": name,
            "uid": make.UID,
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "resourceVersion": "1",
        }
        return {"metadata": meta, "spec": ROUND.to_dict(), "status": make.training(ROUND)[0].to_dict()}

    def each(self, *_: object, **__: object) -> list[dict[str, Any]]:
        raise self.error

    def replace_status(self, _: str, __: object, status: Mapping[str, Any]) -> None:
        if self.conflict:
            raise ConflictError(409, "changed")
        self.written.append(status)

    def create(self, body: dict[str, Any], _: str) -> None:
        self.events.append(body["reason"])


def reconcile(kube: Broken) -> None:
    executor = Executor(
        kube=kube,  # type: ignore[arg-type]
        hospitals=None,  # type: ignore[arg-type]
        store=None,  # type: ignore[arg-type]
        mint=None,  # type: ignore[arg-type]
        progress=None,
        measures=Measures(Telemetry(None, None), lambda: make.NOW),
        defaults=None,  # type: ignore[arg-type]
        clock=lambda: make.NOW,
    )
    executor.reconcile(make.FEDERATION, "stage-1")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreError("upload failed for now (XMinioStorageFull 507)"), "StoreUnavailable"),
        (ArtifactError("GlobalModel x exists with digest y: delete it"), "ReconcileFailed"),
    ],
)
def test_an_error_of_the_operator_is_told_on_the_round_and_raised(error: UmimError, reason: str) -> None:
    kube = Broken(error)
    with pytest.raises(type(error)):
        reconcile(kube)
    (status,) = kube.written
    (found,) = [item for item in status["conditions"] if item["type"] == "Reconciled"]
    assert (found["status"], found["reason"]) == ("False", reason)
    assert str(error) in found["message"]
    assert kube.events == [reason]


def test_a_round_that_changed_meanwhile_is_told_at_the_next_look() -> None:
    kube = Broken(StoreError("no answer"), conflict=True)
    with pytest.raises(StoreError):
        reconcile(kube)
    assert kube.events == []


def test_a_job_view_of_another_attempt_is_not_renewed() -> None:
    status, seen = make.training(ROUND)
    old = make.with_site(status, A, attempt=2)
    stale: JobView = replace(seen.jobs[0], **GONE)
    assert make.step(ROUND, old, replace(seen, jobs=(stale,))).renewals == ()


# what to do about a round that has failed


def test_a_failed_round_says_what_to_do_whatever_it_failed_of() -> None:
    once = make.spec(retries=0)
    status, seen = make.training(once)
    dead = make.step(once, status, make.ended(seen, failed=(A, B), message="no disk", exit_code=1)).status
    late = make.step(ROUND, make.training(ROUND)[0], make.training(ROUND)[1], timedelta(minutes=30)).status
    merging, merged = make.trained(once)
    failed = replace(merged.jobs[-1], outcome="failed", message="killed", exit_code=1)
    broken = make.step(once, merging, replace(merged, jobs=(*merged.jobs[:-1], failed))).status
    excluded = replace(merged, jobs=(), **make.result("aggregate", None, message="1 valid update, the quorum is 2."))
    for ended in (dead, late, broken, make.step(once, merging, excluded).status):
        assert ended.phase == "Failed"
        assert "new round" in make.condition(ended, "Failed").message
    assert "spec.deadline" in make.condition(late, "Failed").message


# minting


@pytest.mark.parametrize(("code", "kind"), [(500, StoreError), (503, StoreError), (403, AccessDeniedError)])
def test_a_store_that_cannot_mint_is_told_from_one_that_refuses(code: int, kind: type[StoreError]) -> None:
    found = _not_minted(ValueError(f"http://store:9000 failed with HTTP status code {code}"))
    assert type(found) is kind
