"""From API objects to the planner's values. Pure: the executor fetches, this module reads."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from umim import contract
from umim.api.artifacts import UpdateManifest
from umim.api.base import HospitalReference, shortened
from umim.api.hospital import HospitalSpec
from umim.api.round import AttemptStatus, FederationRoundSpec, FederationRoundStatus, SiteStatus
from umim.rounds.policy import GPU
from umim.settings import first_problem
from umim_operator.attempts import STARTED, waiting_text
from umim_operator.conditions import Reason
from umim_operator.state import DamagedManifest, HospitalView, JobOutcome, JobView, RoundView, newest_jobs

Object = Mapping[str, Any]
SpecT = TypeVar("SpecT", bound=BaseModel)

POD_START = timedelta(seconds=5)
"""As long as a Pod may take to start before somebody asks why it does not."""
PODS_AT_ONCE, POD_TURN = 50, timedelta(seconds=5)
"""How many Jobs that do not start are explained in one look, and after which time it is the next ones' turn."""
ENDS_AT_ONCE = 50
"""Ended Jobs of sites that one look deals with."""
WAITING_REASONS = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
)


def parsed_spec(model: type[SpecT], body: Object) -> tuple[SpecT | None, str]:
    """Return an object's spec, or None and what is wrong with it."""
    try:
        return model.model_validate(body.get("spec") or {}), ""
    except ValidationError as error:
        return None, f"spec.{first_problem(error)}"


def round_view(body: Object) -> RoundView:
    """Read a FederationRound."""
    meta = body["metadata"]
    spec, spec_error = parsed_spec(FederationRoundSpec, body)
    return RoundView(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        status=FederationRoundStatus.model_validate(body.get("status") or {}),
        spec=spec,
        spec_error=spec_error,
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        deleting="deletionTimestamp" in meta,
        owner=next((one["uid"] for one in meta.get("ownerReferences") or () if one["kind"] == "Federation"), ""),
    )


def version(meta: Object) -> object:
    """Return what changes when people change or delete an object, and stays when the operator writes its status."""
    return meta.get("generation"), meta.get("deletionTimestamp")


def hospital_view(body: Object) -> HospitalView:
    """Read a Hospital."""
    meta = body["metadata"]
    reference = HospitalReference(namespace=meta["namespace"], name=meta["name"])
    spent = (body.get("status") or {}).get("epsilonSpent")
    return HospitalView(reference, *parsed_spec(HospitalSpec, body), epsilon_spent=spent)


def job_view(body: Object, pods: Iterable[Object], workloads: Iterable[Object] = ()) -> JobView:
    """Read a Job of the round, with its Pods where they are needed to say what is wrong.

    workloads: Kueue's, of a Job that is suspended.
    """
    meta, status = body["metadata"], body.get("status", {})
    marks = meta["labels"]
    conditions = {item["type"]: item for item in status.get("conditions", []) if item["status"] == "True"}
    outcome: JobOutcome = "active"
    if "Complete" in conditions or "SuccessCriteriaMet" in conditions:
        outcome = "succeeded"
    elif "Failed" in conditions:
        outcome = "failed"
    exit_code, reason, message = _explain(outcome, conditions.get("Failed", {}), pods)
    waits = outcome == "active" and is_suspended(body)
    if waits:
        reason, message = "", _why_suspended(body, workloads)
    elif outcome == "active" and not message and _without_pod(body):
        reason, message = str(Reason.POD_NOT_CREATED), _no_pod(meta["namespace"], meta["name"])
    return JobView(
        name=meta["name"],
        namespace=meta["namespace"],
        role=cast(contract.Role, marks[contract.LABEL_ROLE]),
        site=(meta.get("annotations") or {}).get(contract.ANNOTATION_SITE, ""),
        attempt=int(marks[contract.LABEL_ATTEMPT]),
        outcome=outcome,
        exit_code=exit_code,
        reason=reason,
        message=message,
        suspended=waits,
        created=_time(meta.get("creationTimestamp")),
        started=_time(status.get("startTime")),
        ready=bool(status.get("ready")),
        gpu=_asks_for_gpu(body),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _asks_for_gpu(body: Object) -> bool:
    pod = body.get("spec", {}).get("template", {}).get("spec", {})
    return any(GPU in (one.get("resources") or {}).get("limits", {}) for one in pod.get("containers", []))


def is_suspended(body: Object) -> bool:
    """Say whether a Job is suspended: Kueue has not admitted it, or takes it back in favour of others."""
    return bool(body.get("spec", {}).get("suspend"))


def _why_suspended(body: Object, workloads: Iterable[Object]) -> str:
    """Return what Kueue says of a Job that it has not admitted."""
    said = [
        item["message"]
        for workload in workloads
        for item in workload.get("status", {}).get("conditions", [])
        if item["type"] in ("QuotaReserved", "Admitted") and item["status"] == "False" and item.get("message")
    ]
    queue = body["metadata"]["labels"].get(contract.LABEL_QUEUE)
    if queue is None:
        return "The Job is suspended, but it is in no queue: somebody set its spec.suspend."
    return f"LocalQueue {queue}: {said[0]}" if said else waiting_text(queue)


def needs_pods(body: Object, now: datetime) -> bool:
    """Say whether the Job's Pods can explain something: it failed, or for some time nothing of it has become ready."""
    if is_suspended(body):
        return False
    status = body.get("status", {})
    true = {item["type"] for item in status.get("conditions", []) if item["status"] == "True"}
    if "Failed" in true:
        return True
    made = datetime.fromisoformat(body["metadata"]["creationTimestamp"])
    return "Complete" not in true and not status.get("ready") and now - made >= POD_START


def explained(
    status: FederationRoundStatus, jobs: Iterable[JobView], unclear: Container[str], now: datetime
) -> list[str]:
    """Return the names of unclear Jobs whose Pods are to be read in this look.

    Only the newest attempt of what has not ended counts: all that failed, and of those that do not start so many that
    a look stays short. The others have their turn in later looks.
    """
    found = [job for job in _open_jobs(status, jobs) if job.name in unclear]
    failed = [job.name for job in found if job.outcome == "failed"]
    waiting = [job.name for job in found if job.outcome != "failed"]
    turn = int(now.timestamp() / POD_TURN.total_seconds()) * PODS_AT_ONCE % max(1, len(waiting))
    return failed + (waiting[turn:] + waiting[:turn])[:PODS_AT_ONCE]


def deferred(status: FederationRoundStatus, jobs: Iterable[JobView]) -> list[JobView]:
    """Return the Jobs of sites whose end is left to the next look, as they were before it: a look stays short.

    Nothing is lost by it: what a Job committed is in the store, whatever becomes of the Job.
    """
    ended = [job for job in _open_jobs(status, jobs) if job.role == "site" and job.outcome != "active"]
    return [replace(job, outcome="active", explained=False, deferred=True) for job in ended[ENDS_AT_ONCE:]]


def _open_jobs(status: FederationRoundStatus, jobs: Iterable[JobView]) -> list[JobView]:
    """Return the newest Jobs, by role and site, whose end is not on record yet."""
    known: dict[tuple[str, str], AttemptStatus] = {("site", site.name): site for site in status.sites}
    known |= {(role, ""): job for role, job in status.server_jobs().items()}

    def is_open(job: JobView) -> bool:
        current = known.get((job.role, job.site), AttemptStatus())
        return job.attempt > current.attempt or getattr(current, "phase", None) in {"Pending", *STARTED}

    return [job for _, job in sorted(newest_jobs(jobs).items()) if is_open(job)]


def _without_pod(body: Object) -> bool:
    """Say whether the Job controller has begun with a Job that has no Pod: Kubernetes did not let it make one."""
    status = body.get("status", {})
    return "startTime" in status and not any(
        status.get(count) for count in ("active", "terminating", "succeeded", "failed", "uncountedTerminatedPods")
    )


def _no_pod(namespace: str, name: str) -> str:
    return (
        f"Kubernetes does not let the Job make its Pod, mostly for a ResourceQuota or an admission policy of namespace "
        f"{namespace}; there `kubectl describe job {name} -n {namespace}` says why. Kubernetes tries again by itself."
    )


def _explain(outcome: JobOutcome, failed: Object, pods: Iterable[Object]) -> tuple[int | None, str, str]:
    if outcome == "succeeded":
        return None, "", ""
    for pod in pods:
        found = _explain_pod(pod, outcome)
        if found is not None:
            return found
    if outcome == "failed":
        return None, failed.get("reason", ""), failed.get("message", "")
    return None, "", ""


def _explain_pod(pod: Object, outcome: JobOutcome) -> tuple[int | None, str, str] | None:
    status = pod.get("status", {})
    state: Object = next((item.get("state", {}) for item in status.get("containerStatuses", [])), {})
    ended = state.get("terminated")
    if outcome == "failed" and ended is not None:
        code, reason = ended.get("exitCode"), ended.get("reason", "")
        text = (ended.get("message") or "").strip() or f"The container ended with exit code {code} ({reason})."
        return code, reason, text
    if outcome == "failed" and status.get("message"):
        return None, status.get("reason", ""), status["message"]
    waiting = state.get("waiting", {})
    if waiting.get("reason") in WAITING_REASONS:
        return None, waiting["reason"], waiting.get("message") or waiting["reason"]
    for item in status.get("conditions", []):
        if item["type"] == "PodScheduled" and item["status"] == "False":
            return None, item.get("reason", ""), item.get("message") or str(Reason.JOB_PENDING)
    return None


def update_or_damage(data: bytes, uid: str, site: SiteStatus) -> UpdateManifest | DamagedManifest:
    """Read a committed manifest and check that it is about this site's attempt."""
    try:
        manifest = UpdateManifest.model_validate_json(data)
    except ValidationError as error:
        return DamagedManifest(f"The manifest of the update is damaged: {first_problem(error)}")
    key, head_key = (make(uid, site.name, site.attempt) for make in (contract.update_key, contract.head_key))
    for field, has, wanted in (
        ("roundUid", manifest.round_uid, uid),
        ("site", manifest.site, site.name),
        ("attempt", manifest.attempt, site.attempt),
        ("file.key", manifest.file.key, key),
        ("head.file.key", head_key if manifest.head is None else manifest.head.file.key, head_key),
    ):
        if has != wanted:
            return DamagedManifest(
                f"The manifest of the update has {field} {shortened(json.dumps(has))}, not {json.dumps(wanted)}."
            )
    return manifest
