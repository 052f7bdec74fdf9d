"""Conditions and their reasons, following the Kubernetes API conventions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Literal

from umim.api.base import Condition

ConditionType = Literal[
    "Accepted", "Suspended", "TrainingFinished", "QuorumReached", "Aggregated", "Complete", "Failed", "Reconciled"
]


class Reason(StrEnum):
    """Every reason that a condition, a campaign, a round or a site can carry, but for those of ``RefusalReason``."""

    # the round and the campaign
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN_STRATEGY = "UnknownStrategy"
    PARENT_NOT_FOUND = "ParentNotFound"
    PARENT_INCOMPATIBLE = "ParentIncompatible"
    TOO_FEW_HOSPITALS = "TooFewHospitals"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    NOT_SUSPENDED = "NotSuspended"
    INITIALIZING = "Initializing"
    INITIALIZATION_FAILED = "InitializationFailed"
    TRAINING = "Training"
    ALL_SITES_FINISHED = "AllSitesFinished"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    QUORUM_REACHED = "QuorumReached"
    QUORUM_NOT_REACHED = "QuorumNotReached"
    STORE_NOT_TRUSTED = "StoreNotTrusted"
    WAITING_FOR_UPDATES = "WaitingForUpdates"
    WAITING_FOR_CONSENT = "WaitingForConsent"
    AGGREGATING = "Aggregating"
    AGGREGATION_FAILED = "AggregationFailed"
    PUBLISHED = "Published"
    NOT_FINISHED = "NotFinished"
    NOT_FAILED = "NotFailed"
    RECONCILED = "Reconciled"
    STORE_UNAVAILABLE = "StoreUnavailable"
    RECONCILE_FAILED = "ReconcileFailed"
    # the campaign
    STAGE_RUNNING = "StageRunning"
    ALL_STAGES_COMPLETE = "AllStagesComplete"
    STOPPED_EARLY = "StoppedEarly"
    ROUND_FAILED = "RoundFailed"
    ROUND_REFUSED = "RoundRefused"
    ROUND_NAME_TAKEN = "RoundNameTaken"
    # one site
    LAUNCHED = "Launched"
    LAUNCH_REFUSED = "LaunchRefused"
    JOB_PENDING = "JobPending"
    POD_NOT_CREATED = "PodNotCreated"
    JOB_RUNNING = "JobRunning"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    JOB_FAILED = "JobFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    JOB_DISAPPEARED = "JobDisappeared"
    UPDATE_MISSING = "UpdateMissing"
    UPDATE_DAMAGED = "UpdateDamaged"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    PERMANENT_ERROR = "PermanentError"
    POLICY_REFUSED = "PolicyRefused"
    OUTSIDE_TIME_WINDOW = "OutsideTimeWindow"
    PRIVACY_BUDGET_EXCEEDED = "PrivacyBudgetExceeded"
    UPDATE_COMMITTED = "UpdateCommitted"
    UPDATE_UNLIKE_OTHERS = "UpdateUnlikeOthers"
    RESULT_COMMITTED = "ResultCommitted"


def set_condition(
    conditions: Iterable[Condition],
    type_: ConditionType,
    value: bool,
    reason: Reason,
    message: str,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions with one set. The transition time changes only when the status does."""
    status: Literal["True", "False"] = "True" if value else "False"
    kept = list(conditions)
    before = find(kept, type_)
    since = before.last_transition_time if before is not None and before.status == status else now
    new = Condition(
        type=type_,
        status=status,
        reason=str(reason),
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    if before is None:
        return [*kept, new]
    return [new if condition.type == type_ else condition for condition in kept]


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Say whether the condition of that type is True."""
    condition = find(conditions, type_)
    return condition is not None and condition.status == "True"
