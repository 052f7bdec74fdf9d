"""Policy: attempts, failures and backoff of one Job. Pure.

There is one retry mechanism: a Job runs one Pod (backoffLimit 0), and the planner counts attempts in the round's
status. A new attempt continues from the checkpoint of the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from umim.api.base import shortened
from umim.api.round import FederationRoundStatus, JobStatus, SiteStatus
from umim.contract import Role
from umim.errors import PERMANENT_EXIT_CODES, PolicyError, PrivacyBudgetError
from umim_operator.conditions import Reason
from umim_operator.state import JobView, RetryPolicy

REFUSED_WAIT = timedelta(seconds=30)
"""After the API server refused to create a Job."""

PERMANENT_REASONS: Mapping[int | None, Reason] = {
    PolicyError.exit_code: Reason.POLICY_REFUSED,
    PrivacyBudgetError.exit_code: Reason.PRIVACY_BUDGET_EXCEEDED,
}
"""Reasons of the permanent errors that have one of their own, by the Job's exit code."""

STARTED = frozenset({"Queued", "Running"})
"""Phases of an attempt whose Job exists and has not ended."""

OUT_OF_MEMORY = "OOMKilled"
"""Reason of Kubernetes for a container that the kernel killed for its memory."""
MORE_MEMORY: Mapping[Role, str] = {
    "site": "Raise spec.resources.limits.memory, or lower spec.training.batchSize",
    "init": "Raise spec.pretraining.resources.limits.memory",
    "aggregate": "Raise limits.memory of spec.aggregation.resources, or of spec.distillation.resources if that is set",
}
"""What helps a Job that ran out of memory, by role."""

S = TypeVar("S", JobStatus, SiteStatus)


def adopt(current: S, job: JobView | None) -> S:
    """Take over a Job that was created before its attempt could be written into the status."""
    if job is None or job.attempt <= current.attempt:
        return current
    return current.model_copy(
        update={"attempt": job.attempt, "job": job.name, "phase": "Running", "retry_time": None, "message": None}
    )


def advance(current: S, job: JobView | None, policy: RetryPolicy, now: datetime) -> S:
    """Return the next status of an attempt whose result is not committed.

    ``job`` is the Job of the newest attempt. Phases in and out: Pending (launch when possible), Queued, Running,
    Backoff, Failed. Other phases are returned unchanged. A Job that was to be stopped and still runs is taken back:
    there is never a second one beside it.
    """
    if current.phase == "Pending" and job is not None and job.outcome == "active" and job.attempt == current.attempt:
        return _running(current, job)
    if current.phase == "Backoff":
        due = current.retry_time is None or now >= current.retry_time
        return current.model_copy(update={"phase": "Pending", "retry_time": None}) if due else current
    if current.phase not in STARTED:
        return current
    if job is None or job.attempt < current.attempt:
        return _failed(current, Reason.JOB_DISAPPEARED, "The Job was deleted before it delivered.", policy, now)
    if job.outcome == "active":
        return _running(current, job)
    if job.outcome == "succeeded":
        return _failed(current, Reason.UPDATE_MISSING, "The Job ended but left no artifact.", policy, now)
    message = job.message or job.reason or "The Job failed without a message."
    if job.exit_code in PERMANENT_EXIT_CODES:
        return _ended(current, PERMANENT_REASONS.get(job.exit_code, Reason.PERMANENT_ERROR), message)
    if job.reason == OUT_OF_MEMORY:
        message = f"The container was killed for its memory ({OUT_OF_MEMORY}). {MORE_MEMORY[job.role]}."
        return _failed(current, Reason.OUT_OF_MEMORY, message, policy, now)
    return _failed(current, Reason.JOB_FAILED, message, policy, now)


def lacks_secret(current: JobStatus | SiteStatus, job: JobView) -> bool:
    """Say whether the Pod of the current attempt cannot start because the Secret with its credentials is gone."""
    return (
        current.phase == "Running"
        and job.outcome == "active"
        and job.reason == "CreateContainerConfigError"
        and f'secret "{job.name}" not found' in job.message
    )


def damaged(current: S, message: str, policy: RetryPolicy, now: datetime) -> S:
    """Count a failure: what the attempt committed cannot be used."""
    return _failed(current, Reason.UPDATE_DAMAGED, message, policy, now)


def launched(current: S, name: str, queue: str | None = None) -> S:
    """Return the status of the next attempt, just launched. queue: the LocalQueue that is to admit its Job."""
    update: dict[str, object] = {"attempt": current.attempt + 1, "job": name, "retry_time": None}
    if queue is None:
        update |= {"phase": "Running", "reason": str(Reason.LAUNCHED)}
    else:
        update |= {"phase": "Queued", "reason": str(Reason.WAITING_FOR_QUOTA), "message": waiting_text(queue)}
    return current.model_copy(update=update)


def waiting_text(queue: str) -> str:
    """Return what a Job waits for of which its queue says nothing yet."""
    return (
        f"The Job waits for Kueue to admit it from LocalQueue {queue}. If that never happens: does Kueue run, and does "
        "the queue exist?"
    )


def not_launched(current: S, message: str, now: datetime) -> S:
    """Take back a launch that the API server refused. It costs no retry: nothing of the Job is at fault."""
    return current.model_copy(
        update={
            "attempt": current.attempt - 1,
            "job": None,
            "phase": "Backoff",
            "reason": str(Reason.LAUNCH_REFUSED),
            "message": shortened(f"The Job cannot be created. {message}"),
            "retry_time": now + REFUSED_WAIT,
        }
    )


def without_refused(status: FederationRoundStatus, refused: Mapping[str, str], now: datetime) -> FederationRoundStatus:
    """Return the status with the launches taken back that the API server refused, by Job name and its message."""

    def settle(current: S) -> S:
        message = refused.get(current.job or "")
        return current if message is None else not_launched(current, message, now)

    update: dict[str, object] = {"sites": [settle(site) for site in status.sites]}
    for name in ("initialization", "aggregation"):
        job: JobStatus | None = getattr(status, name)
        update[name] = None if job is None else settle(job)
    return status.model_copy(update=update)


def _running(current: S, job: JobView) -> S:
    if not job.explained and current.phase == ("Queued" if job.suspended else "Running"):
        return current  # what was said of it last still holds
    update: dict[str, object] = {"phase": "Running", "reason": str(Reason.JOB_RUNNING), "message": None}
    if job.suspended:
        update = {"phase": "Queued", "reason": str(Reason.WAITING_FOR_QUOTA), "message": shortened(job.message)}
    elif job.message:
        update |= {"reason": job.reason or str(Reason.JOB_PENDING), "message": shortened(job.message)}
    return current.model_copy(update=update)


def _failed(current: S, reason: Reason, message: str, policy: RetryPolicy, now: datetime) -> S:
    failures = current.failures + 1
    if failures > policy.retries:
        text = f"{message} No retries left ({failures} failed attempts, spec.retries {policy.retries})."
        return _ended(current.model_copy(update={"failures": failures}), Reason.RETRIES_EXHAUSTED, text)
    return current.model_copy(
        update={
            "phase": "Backoff",
            "failures": failures,
            "reason": str(reason),
            "message": shortened(message),
            "retry_time": now + policy.backoff(failures),
        }
    )


def _ended(current: S, reason: Reason, message: str) -> S:
    update = {"phase": "Failed", "reason": str(reason), "message": shortened(message), "retry_time": None}
    return current.model_copy(update=update)
