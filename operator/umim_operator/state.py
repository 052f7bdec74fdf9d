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
    owner: str = ""
    """UID of the Federation that made it; empty: none did."""

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
    epsilon_spent: float | None = None
    """Its status.epsilonSpent."""


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
    suspended: bool = False
    """It waits in a queue to be admitted, or has been suspended again in favour of others."""
    created: datetime | None = None
    started: datetime | None = None
    """When the Job was first allowed to make its Pod; a queue may have held it until then."""
    ready: bool = False
    """Whether its Pod runs."""
    gpu: bool = False
    """Whether it asks for a GPU."""
    explained: bool = True
    """Whether its Pods were looked at, as far as they can explain something."""
    deferred: bool = False
    """Whether it has ended and is shown as active: its end is left to the next look."""


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

    @property
    def deferred(self) -> bool:
        """Whether there is more to see than this snapshot shows: it is left to the next one."""
        return any(job.deferred for job in self.jobs)

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
    queue: str | None = None
    """LocalQueue that admits the Job; None: it starts at once."""


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
    renewals: tuple[Launch, ...] = ()
    """Jobs that wait for their Secret, which somebody deleted: they get another one."""
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
    """How often live progress is folded into the status, in a round of up to ``small`` sites."""
    longest_progress_interval: timedelta = timedelta(seconds=15)
    """The same in the largest rounds, whose status is a thousand times as long."""
    small: int = 100
    """Sites of a round above which the interval grows with their number."""
    job_grace: timedelta = timedelta(seconds=30)
    """How long a Job may outlive the deadline when the operator is down."""
    server_job_limit: timedelta = timedelta(hours=24)
    """Time limit of the server's Jobs."""
    launches_at_once: int = 50
    """Most Jobs of sites that one plan launches. The rest follows when these are on record."""
