"""Kubernetes Events: what changed between two statuses of a round. Pure."""

from __future__ import annotations

from typing import Literal

from umim.api.round import FederationRoundStatus
from umim_operator.conditions import find
from umim_operator.state import Event

_WARNING_WHEN = {"Accepted": "False", "Failed": "True"}
_SPOKEN = {
    ("Accepted", "True"),
    ("Accepted", "False"),
    ("Suspended", "True"),
    ("TrainingFinished", "True"),
    ("Complete", "True"),
    ("Failed", "True"),
}
_WARNING_PHASES = frozenset({"Refused", "Backoff", "Failed", "Excluded", "Late"})


def between(old: FederationRoundStatus, new: FederationRoundStatus) -> tuple[Event, ...]:
    """Return one event for each condition that changed and each site that reached another phase."""
    return (*_condition_events(old, new), *_site_events(old, new))


def _condition_events(old: FederationRoundStatus, new: FederationRoundStatus) -> list[Event]:
    found = []
    for condition in new.conditions:
        before = find(old.conditions, condition.type)
        if before is not None and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        if (condition.type, condition.status) in _SPOKEN:
            warning = _WARNING_WHEN.get(condition.type) == condition.status
            found.append(_event(warning, condition.reason, condition.message))
    return found


def _site_events(old: FederationRoundStatus, new: FederationRoundStatus) -> list[Event]:
    before = {site.name: (site.phase, site.attempt) for site in old.sites}
    found = []
    for site in new.sites:
        if site.phase == "Pending" or before.get(site.name) == (site.phase, site.attempt):
            continue
        detail = f" {site.message}" if site.message else ""
        text = f"Site {site.name} is {site.phase} (attempt {site.attempt}).{detail}"
        found.append(_event(site.phase in _WARNING_PHASES, site.reason or site.phase, text))
    return found


def _event(warning: bool, reason: str, message: str) -> Event:
    type_: Literal["Normal", "Warning"] = "Warning" if warning else "Normal"
    return Event(type_, reason, message)
