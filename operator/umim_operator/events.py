"""Kubernetes Events: what changed between two statuses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

from umim import contract
from umim.api.base import API_VERSION, Condition
from umim.api.federation import StageStatus
from umim.api.round import FederationRoundStatus
from umim_operator.conditions import Reason, find
from umim_operator.state import Event

NAMES_SHOWN = 10
"""Names of sites in one event. The status has all."""
_WARNING_WHEN = {"Accepted": "False", "Failed": "True", "Reconciled": "False"}
_SPOKEN = {
    ("Accepted", "True"),
    ("Accepted", "False"),
    ("Suspended", "True"),
    ("Reconciled", "False"),
    ("TrainingFinished", "True"),
    ("Complete", "True"),
    ("Failed", "True"),
}
_WARNING_PHASES = frozenset({"Refused", "Backoff", "Failed", "Excluded", "Late"})


def between(old: FederationRoundStatus, new: FederationRoundStatus) -> tuple[Event, ...]:
    """Return one event for each condition that changed, each site that reached another phase, each new outlier."""
    return (*of_conditions(old.conditions, new.conditions), *_site_events(old, new), *_outlier_events(old, new))


def of_conditions(old: Sequence[Condition], new: Iterable[Condition]) -> list[Event]:
    """Return one event for each condition that changed and is worth one."""
    found = []
    for condition in new:
        before = find(old, condition.type)
        if before is not None and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        if (condition.type, condition.status) in _SPOKEN:
            warning = _WARNING_WHEN.get(condition.type) == condition.status
            found.append(_event(warning, condition.reason, condition.message))
    return found


def _site_events(old: FederationRoundStatus, new: FederationRoundStatus) -> list[Event]:
    """Return one event for the sites of which there is the same to say: a round can have a thousand."""
    before = {site.name: (site.phase, site.attempt) for site in old.sites}
    groups: dict[tuple[str, str, str], list[str]] = {}
    for site in new.sites:
        if site.phase == "Pending" or before.get(site.name) == (site.phase, site.attempt):
            continue
        detail = f" {site.message}" if site.message else ""
        said = f"{site.phase} (attempt {site.attempt}).{detail}"
        groups.setdefault((site.phase, site.reason or site.phase, said), []).append(site.name)
    return [
        _event(phase in _WARNING_PHASES, reason, f"{_sites(names)} {said}")
        for (phase, reason, said), names in groups.items()
    ]


def _sites(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"Site {names[0]} is"
    shown = ", ".join(names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} sites ({shown}{more}) are"


def _outlier_events(old: FederationRoundStatus, new: FederationRoundStatus) -> list[Event]:
    before = {site.name for site in old.sites if site.outlier}
    return [
        _event(True, Reason.UPDATE_UNLIKE_OTHERS, f"Site {site.name}: {site.message}")
        for site in new.sites
        if site.outlier and site.name not in before
    ]


def of_stages(old: Iterable[StageStatus], new: Iterable[StageStatus]) -> list[Event]:
    """Return one event for each stage of a campaign that reached another phase."""
    before = {stage.name: stage.phase for stage in old}
    return [
        _event(stage.phase == "Failed", f"Stage{stage.phase}", f"Stage {stage.name} is {stage.phase}.")
        for stage in new
        if stage.phase != before.get(stage.name, "Pending")
    ]


def manifest(event: Event, kind: str, subject: dict[str, str], now: datetime) -> dict[str, Any]:
    """Return the Event to create. subject: namespace, name and uid of the resource that it is about."""
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{subject['name']}.", "namespace": subject["namespace"]},
        "involvedObject": {"apiVersion": API_VERSION, "kind": kind, **subject},
        "type": event.type,
        "reason": event.reason,
        "message": event.message,
        "source": {"component": contract.FIELD_MANAGER},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def _event(warning: bool, reason: str, message: str) -> Event:
    type_: Literal["Normal", "Warning"] = "Warning" if warning else "Normal"
    return Event(type_, reason, message)
