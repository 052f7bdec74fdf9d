"""What the planner of campaigns sees and what it decides: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from umim.api.federation import FederationSpec, FederationStatus
from umim.api.globalmodel import GlobalModelSpec
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim_operator.state import Event


@dataclass(frozen=True)
class FederationView:
    """One Federation as read from the API server. ``spec`` is None when it cannot be parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    status: FederationStatus
    spec: FederationSpec | None
    spec_error: str = ""
    deleting: bool = False


@dataclass(frozen=True)
class RoundSeen:
    """The newest FederationRound of the campaign."""

    owned: bool
    """Whether it belongs to this Federation: another object may have its name."""
    suspended: bool
    """Its spec.suspend."""
    status: FederationRoundStatus
    deleting: bool = False


@dataclass(frozen=True)
class FederationObserved:
    """A snapshot of everything around one Federation."""

    round: RoundSeen | None = None
    """The FederationRound that status.currentRound names."""
    model: GlobalModelSpec | None = None
    """The GlobalModel that this round published."""


@dataclass(frozen=True)
class RoundCreation:
    """A FederationRound to create."""

    name: str
    stage: str
    spec: FederationRoundSpec


@dataclass(frozen=True)
class FederationPlan:
    """What to do next. The executor writes the status first: it freezes a stage before a round of it exists."""

    status: FederationStatus
    create: RoundCreation | None = None
    suspend: bool | None = None
    """The spec.suspend that the newest round is to have. None: as it is."""
    events: tuple[Event, ...] = ()
    look_again: timedelta | None = None
    """When to plan again without being woken. None: only when woken."""
