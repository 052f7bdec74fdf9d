"""From API objects to the planner's values. Pure: the executor fetches, this module reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from umim import contract
from umim.api.artifacts import UpdateManifest
from umim.api.base import HospitalReference, shortened
from umim.api.hospital import HospitalSpec
from umim.api.round import FederationRoundSpec, FederationRoundStatus, SiteStatus
from umim.settings import first_problem
from umim_operator.conditions import Reason
from umim_operator.state import DamagedManifest, HospitalView, JobOutcome, JobView, RoundView

Object = Mapping[str, Any]
SpecT = TypeVar("SpecT", bound=BaseModel)

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
    )


def hospital_view(body: Object) -> HospitalView:
    """Read a Hospital."""
    meta = body["metadata"]
    reference = HospitalReference(namespace=meta["namespace"], name=meta["name"])
    return HospitalView(reference, *parsed_spec(HospitalSpec, body))


def job_view(body: Object, pods: Iterable[Object]) -> JobView:
    """Read a Job of the round, with its Pods where they are needed to say what is wrong."""
    meta = body["metadata"]
    marks = meta["labels"]
    conditions = {
        item["type"]: item for item in body.get("status", {}).get("conditions", []) if item["status"] == "True"
    }
    outcome: JobOutcome = "active"
    if "Complete" in conditions or "SuccessCriteriaMet" in conditions:
        outcome = "succeeded"
    elif "Failed" in conditions:
        outcome = "failed"
    exit_code, reason, message = _explain(outcome, conditions.get("Failed", {}), pods)
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
    )


def needs_pods(body: Object) -> bool:
    """Say whether the Job's Pods must be read: it failed, or it is active but nothing of it is ready."""
    status = body.get("status", {})
    done = any(item["type"] == "Complete" and item["status"] == "True" for item in status.get("conditions", []))
    return not done and not status.get("ready")


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
