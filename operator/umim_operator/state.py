"""What the planner sees and what it decides: frozen values, no behaviour beyond lookups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.base import HospitalReference, parse_duration
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalSpec, Participation
from umim.api.jobs import JobConfig
from umim.api.round import FederationRoundSpec, FederationRoundStatus, Progress
from umim.contract import Role
from umim.rounds.publication import ModelPublication

JobOutcome = Literal["active", "succeeded", "failed"]


@dataclass(frozen=True)
class RoundView:
    """One FederationRound as read from the API server. ``spec`` is None when it cannot be parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    status: FederationRoundStatus
    spec: FederationRoundSpec | None
    spec_error: str = ""
    created: datetime | None = None
    deleting: bool = False

    @property
    def valid_spec(self) -> FederationRoundSpec:
        """The spec of a round that parses. Raises ValueError for another one, which acceptance has ended."""
        if self.spec is None:
            raise ValueError(self.spec_error)
        return self.spec

    @property
    def deadline(self) -> datetime | None:
        """When missing updates are no longer waited for; None while the sites have not started."""
        if self.spec is None or self.status.start_time is None:
            return None
        return self.status.start_time + parse_duration(self.spec.deadline)


@dataclass(frozen=True)
class HospitalView:
    """One Hospital resource. ``spec`` is None when it cannot be parsed."""

    reference: HospitalReference
    spec: HospitalSpec | None
    spec_error: str = ""


@dataclass(frozen=True)
class JobView:
    """One Job of the round, reduced to what decisions need."""

    name: str
    namespace: str
    role: Role
    site: str
    attempt: int
    outcome: JobOutcome
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    """Why it failed, or why its Pod does not run yet."""


@dataclass(frozen=True)
class DamagedManifest:
    """A committed manifest that cannot be read or is not about this attempt."""

    message: str


def newest_jobs(jobs: Iterable[JobView]) -> dict[tuple[Role, str], JobView]:
    """Return the Job of the newest attempt by role and site."""
    return {(job.role, job.site): job for job in sorted(jobs, key=lambda job: job.attempt)}


@dataclass(frozen=True)
class Observed:
    """A snapshot of everything around one round."""

    hospitals: Mapping[str, HospitalView] = field(default_factory=dict)
    """By site. For a selector: the hospitals that match it."""
    jobs: tuple[JobView, ...] = ()
    updates: Mapping[tuple[str, int], UpdateManifest | DamagedManifest] = field(default_factory=dict)
    """Committed updates by site and attempt."""
    results: Mapping[Role, JobResult] = field(default_factory=dict)
    """Committed results of the server's Jobs."""
    models: Mapping[str, ModelManifest] = field(default_factory=dict)
    """Manifests of the models that results name, by digest."""
    parent: GlobalModelSpec | None = None
    """The GlobalModel that spec.model.parent.globalModel names."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """Newest live report by site, or by role of a Job of the server."""

    def job(self, role: Role, site: str) -> JobView | None:
        """Return the Job of the newest attempt, or None."""
        return self._newest.get((role, site))

    @cached_property
    def _newest(self) -> dict[tuple[Role, str], JobView]:
        return newest_jobs(self.jobs)


@dataclass(frozen=True)
class JobReference:
    """Names one Job and the Secret of the same name."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Launch:
    """A Job to create, with credentials of its own."""

    reference: JobReference
    role: Role
    site: str
    attempt: int
    config: JobConfig
    hospital: HospitalSpec | None
    """The hospital where a site Job runs; None for a Job of the server."""
    time_left: timedelta
    """Time after which the Job and its credentials are of no use."""


@dataclass(frozen=True)
class LedgerEntry:
    """An update that left a hospital, to be written into its status."""

    hospital: HospitalReference
    participation: Participation


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about the round."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What to do next. The executor carries it out in this order and writes the status last."""

    status: FederationRoundStatus
    stops: tuple[JobReference, ...] = ()
    """Jobs to delete, with their Secrets."""
    spent: tuple[JobReference, ...] = ()
    """Finished Jobs whose Secrets are to be deleted."""
    publications: tuple[ModelPublication, ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    launches: tuple[Launch, ...] = ()
    events: tuple[Event, ...] = ()
    delete_round: bool = False
    look_again: timedelta | None = None
    """When to plan again without being woken. None: only when woken."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and after which waits a failed Job is tried again."""

    retries: int
    base: timedelta = timedelta(seconds=10)
    cap: timedelta = timedelta(minutes=6)

    def backoff(self, failures: int) -> timedelta:
        """Return the wait after so many failures: doubling from the base up to the cap, as Kubernetes Jobs do."""
        doublings: int = 2 ** min(max(failures - 1, 0), 16)
        return min(self.cap, self.base * doublings)


@dataclass(frozen=True)
class Timing:
    """Waiting times of the planner."""

    progress_interval: timedelta = timedelta(seconds=5)
    """How often live progress is folded into the status."""
    job_grace: timedelta = timedelta(seconds=30)
    """How long a Job may outlive the deadline when the operator is down."""
    server_job_limit: timedelta = timedelta(hours=24)
    """Time limit of the server's Jobs."""
