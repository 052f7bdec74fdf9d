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

    ``job`` is the Job of the newest attempt. Phases in and out: Pending (launch when possible), Running, Backoff,
    Failed. Other phases are returned unchanged. A Job that was to be stopped and still runs is taken back: there is
    never a second one beside it.
    """
    if current.phase == "Pending" and job is not None and job.outcome == "active" and job.attempt == current.attempt:
        return _running(current.model_copy(update={"phase": "Running"}), job)
    if current.phase == "Backoff":
        due = current.retry_time is None or now >= current.retry_time
        return current.model_copy(update={"phase": "Pending", "retry_time": None}) if due else current
    if current.phase != "Running":
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
    return _failed(current, Reason.JOB_FAILED, message, policy, now)


def damaged(current: S, message: str, policy: RetryPolicy, now: datetime) -> S:
    """Count a failure: what the attempt committed cannot be used."""
    return _failed(current, Reason.UPDATE_DAMAGED, message, policy, now)


def launched(current: S, name: str) -> S:
    """Return the status of the next attempt, just launched."""
    return current.model_copy(
        update={
            "attempt": current.attempt + 1,
            "job": name,
            "phase": "Running",
            "reason": str(Reason.LAUNCHED),
            "retry_time": None,
        }
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
    if job.message:
        return current.model_copy(
            update={"reason": job.reason or str(Reason.JOB_PENDING), "message": shortened(job.message)}
        )
    return current.model_copy(update={"reason": str(Reason.JOB_RUNNING), "message": None})


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
