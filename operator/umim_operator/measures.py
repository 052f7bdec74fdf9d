"""What the operator measures: from two statuses to values of metrics. Pure but for ``Measures``, which records them.

Counters move when a status was written, never when one was only computed: a look that fails counts nothing twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from umim import metrics as m
from umim.api.artifacts import UpdateManifest
from umim.api.federation import FederationPhase, FederationStatus
from umim.api.round import FederationRoundStatus, RoundPhase, SiteStatus
from umim.metrics import Attributes, Metric
from umim.telemetry import Telemetry, federation_context, federation_span_context, round_context, round_span_context
from umim_operator.conditions import Reason, is_true
from umim_operator.federations.state import FederationView
from umim_operator.kube import ConflictError
from umim_operator.state import HospitalView, JobView, Observed, Plan, RoundView

ENDS = frozenset({"Succeeded", "Failed", "Excluded", "Late", "Refused"})
"""Phases in which a site waits for nothing that the round does."""
_MOMENTS = (("loss_before", "before"), ("loss_after", "after"))
_ROUND_ENDS = (
    ("Complete", Reason.PUBLISHED),
    ("Failed", Reason.QUORUM_NOT_REACHED),
    ("Failed", Reason.INITIALIZATION_FAILED),
    ("Failed", Reason.AGGREGATION_FAILED),
)
"""The common ends of rounds. They are counted from zero on: a rate can tell the first one only after a zero."""


@dataclass(frozen=True)
class Measurement:
    """One value of one metric."""

    metric: Metric
    value: float
    attributes: Attributes


def of_round(view: RoundView, observed: Observed, next_: Plan, now: datetime) -> list[Measurement]:
    """Return what the step from the round's status to the plan's status tells."""
    old, new, place = view.status, next_.status, {m.NAMESPACE: view.namespace}
    found = []
    if new.sites and not old.sites:
        found += _zeros(view, new)
    before = {site.name: site for site in old.sites}
    for site in new.sites:
        found += _of_site(before.get(site.name, site), site, view, observed, now)
    if is_true(new.conditions, "QuorumReached") and not is_true(old.conditions, "QuorumReached") and new.start_time:
        found.append(Measurement(m.QUORUM_DURATION, _seconds(new.start_time, now), place))
    if new.global_model is not None and old.global_model is None:
        for publication in next_.publications:
            figures = publication.spec.metrics or {}
            found += [
                Measurement(m.MODEL_LOSS, figures[name], {**place, m.MOMENT: moment})
                for name, moment in _MOMENTS
                if name in figures
            ]
    if new.completion_time is not None and old.completion_time is None:
        end = {**place, m.ROUND_PHASE: new.phase}
        found.append(Measurement(m.ROUND_FINISHED, 1, {**end, m.ROUND_REASON: new.reason or ""}))
        found.append(Measurement(m.ROUND_DURATION, _seconds(view.created or now, new.completion_time), end))
    return found


def of_hospital(hospital: HospitalView) -> list[Measurement]:
    """Return what a hospital has spent of its privacy budget."""
    who, spent = {m.SITE: hospital.reference.site}, hospital.epsilon_spent
    floor = hospital.spec.privacy.differential_privacy if hospital.spec is not None else None
    found = [] if spent is None else [Measurement(m.EPSILON_SPENT, spent, who)]
    if floor is not None and floor.epsilon_budget is not None:
        found.append(Measurement(m.EPSILON_REMAINING, floor.epsilon_budget - (spent or 0.0), who))
    return found


def of_federation(view: FederationView, status: FederationStatus) -> list[Measurement]:
    """Return where a campaign stands."""
    place = {m.NAMESPACE: view.namespace, m.FEDERATION: view.name}
    rounds = [one for stage in status.stages for one in stage.rounds]
    found = [
        Measurement(m.FEDERATION_ROUNDS, sum(one.phase == "Complete" for one in rounds), {**place, m.STATE: "done"})
    ]
    if view.spec is not None:
        planned = sum(stage.rounds for stage in view.spec.stages)
        found.append(Measurement(m.FEDERATION_ROUNDS, planned, {**place, m.STATE: "planned"}))
    losses = [one.server_mim_loss for one in rounds if one.server_mim_loss is not None]
    return found + ([Measurement(m.SERVER_LOSS, losses[-1], place)] if losses else [])


def _zeros(view: RoundView, status: FederationRoundStatus) -> list[Measurement]:
    found = [
        Measurement(
            m.ROUND_FINISHED,
            0,
            {m.NAMESPACE: view.namespace, m.ROUND_PHASE: phase, m.ROUND_REASON: str(reason)},
        )
        for phase, reason in _ROUND_ENDS
    ]
    for site in status.sites:
        good = {m.SITE: site.name, m.SITE_PHASE: "Succeeded", m.REASON: str(Reason.UPDATE_COMMITTED)}
        bad = {m.SITE: site.name, m.REASON: str(Reason.JOB_FAILED)}
        found.append(Measurement(m.SITE_FINISHED, 0, good))
        found.append(Measurement(m.SITE_FAILURES, 0, bad))
        found.append(Measurement(m.UPDATE_BYTES, 0, {m.SITE: site.name}))
    return found


def _of_site(old: SiteStatus, new: SiteStatus, view: RoundView, observed: Observed, now: datetime) -> list[Measurement]:
    who = {m.SITE: new.name}
    found = []
    if new.failures > old.failures:
        reason = new.reason or new.phase
        found.append(Measurement(m.SITE_FAILURES, new.failures - old.failures, {**who, m.REASON: reason}))
    if new.phase != old.phase and new.phase in ENDS:
        end = {**who, m.SITE_PHASE: new.phase, m.REASON: new.reason or new.phase}
        found.append(Measurement(m.SITE_FINISHED, 1, end))
        found += _duration(new, view, observed.job("site", new.name), now) if new.phase != "Excluded" else []
    if new.phase == "Succeeded" and old.phase != "Succeeded":
        update = observed.updates.get((new.name, new.attempt))
        if isinstance(update, UpdateManifest):
            head = 0 if update.head is None else update.head.file.size_bytes
            found.append(Measurement(m.UPDATE_BYTES, update.file.size_bytes + head, who))
        figures = new.metrics or {}
        found += [
            Measurement(m.SITE_LOSS, figures[name], {**who, m.MOMENT: moment})
            for name, moment in _MOMENTS
            if name in figures
        ]
    if new.update_norm is not None and old.update_norm is None:
        found.append(Measurement(m.UPDATE_NORM, new.update_norm, who))
    if new.update_cosine is not None and old.update_cosine is None:
        found.append(Measurement(m.UPDATE_COSINE, new.update_cosine, who))
    return found


def _duration(site: SiteStatus, view: RoundView, job: JobView | None, now: datetime) -> list[Measurement]:
    if job is None or job.created is None or job.attempt != site.attempt:
        return []
    seconds = _seconds(job.created, now)
    return [
        Measurement(m.SITE_DURATION, seconds, {m.NAMESPACE: view.namespace, m.SITE_PHASE: site.phase}),
        Measurement(m.SITE_LAST_DURATION, seconds, {m.SITE: site.name}),
    ]


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())


@dataclass
class _Census:
    """Counts resources by namespace and phase."""

    metric: Metric
    attribute: str
    phases: tuple[str, ...]
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def counts(self, namespace: str) -> list[Measurement]:
        found = Counter(phase for place, phase in self.known.values() if place == namespace)
        return [
            Measurement(self.metric, found[phase], {m.NAMESPACE: namespace, self.attribute: phase})
            for phase in self.phases
        ]


class Measures:
    """Records what the operator measures. Its memory is rebuilt by the first look at each resource."""

    def __init__(self, telemetry: Telemetry, clock: Callable[[], datetime]) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._lock = threading.Lock()
        self._rounds = _Census(m.ROUNDS, m.ROUND_PHASE, get_args(RoundPhase))
        self._federations = _Census(m.FEDERATIONS, m.FEDERATION_PHASE, get_args(FederationPhase))
        self._waiting: dict[str, frozenset[str]] = {}

    @contextmanager
    def reconciling(self, view: RoundView | FederationView) -> Iterator[None]:
        """Time one look at a resource, in a span of its trace."""
        started = self._clock()
        outcome: dict[str, str] = {m.OUTCOME: "success"}
        kind = "FederationRound" if isinstance(view, RoundView) else "Federation"
        context = round_context(view.uid) if isinstance(view, RoundView) else federation_context(view.uid)
        name = "umim.round" if isinstance(view, RoundView) else m.FEDERATION
        try:
            with self._telemetry.span("umim.reconcile", {name: f"{view.namespace}/{view.name}"}, context):
                yield
        except ConflictError:
            outcome = {m.OUTCOME: "conflict"}
            raise
        except Exception as error:
            outcome = {m.OUTCOME: "error", m.ERROR_TYPE: type(error).__name__}
            raise
        finally:
            seconds = _seconds(started, self._clock())
            self._telemetry.metrics.record(m.RECONCILE_DURATION, seconds, {m.KIND: kind, **outcome}, context)

    def looked(self, view: RoundView, observed: Observed) -> None:
        """Record what a look at a round shows, whether or not anything changed."""
        self._count(self._rounds, view.uid, view.namespace, view.status.phase)
        for hospital in observed.hospitals.values():
            self.hospital(hospital)
        self._record(self._waits(view, observed))

    def hospital(self, hospital: HospitalView) -> None:
        """Record what a hospital has spent of its privacy budget."""
        self._record(of_hospital(hospital))

    def wrote(self, view: RoundView, observed: Observed, next_: Plan) -> None:
        """Record a step of a round whose status has just been written."""
        status = next_.status
        self._count(self._rounds, view.uid, view.namespace, status.phase)
        self._record(of_round(view, observed, next_, self._clock()), view.uid)
        if status.completion_time is not None and view.status.completion_time is None:
            attributes = {m.ROUND_PHASE: status.phase, m.ROUND_REASON: status.reason or ""}
            links = [federation_span_context(view.owner)] if view.owner else []
            start = view.created or status.completion_time
            name = f"{view.namespace}/{view.name}"
            self._telemetry.record_root(
                round_span_context(view.uid), name, start, status.completion_time, attributes, links
            )

    def gone(self, uid: str) -> None:
        """Forget a deleted round or campaign."""
        self._waiting.pop(uid, None)
        for census in (self._rounds, self._federations):
            with self._lock:
                known = census.known.pop(uid, None)
                counts = census.counts(known[0]) if known is not None else []
            self._record(counts)

    def looked_at_federation(self, view: FederationView, status: FederationStatus) -> None:
        """Record where a campaign stands."""
        self._count(self._federations, view.uid, view.namespace, status.phase)
        self._record(of_federation(view, status))

    def federation_ended(self, view: FederationView, status: FederationStatus, rounds: list[str]) -> None:
        """Record the root span of a campaign, with links to the traces of its rounds, given by their UIDs."""
        if status.start_time is None or status.completion_time is None:
            return
        links = [round_span_context(uid) for uid in rounds]
        attributes = {m.FEDERATION_PHASE: status.phase, m.REASON: status.reason or ""}
        name = f"{view.namespace}/{view.name}"
        root = federation_span_context(view.uid)
        self._telemetry.record_root(root, name, status.start_time, status.completion_time, attributes, links)

    def federation_gone(self, view: FederationView) -> None:
        """Forget a deleted campaign."""
        self.gone(view.uid)
        place = {m.NAMESPACE: view.namespace, m.FEDERATION: view.name}
        for state in ("done", "planned"):
            self._telemetry.metrics.forget(m.FEDERATION_ROUNDS, {**place, m.STATE: state})
        self._telemetry.metrics.forget(m.SERVER_LOSS, place)

    def _count(self, census: _Census, uid: str, namespace: str, phase: str) -> None:
        with self._lock:
            if census.known.get(uid) == (namespace, phase):
                return
            census.known[uid] = (namespace, phase)
            counts = census.counts(namespace)
        self._record(counts)

    def _waits(self, view: RoundView, observed: Observed) -> list[Measurement]:
        """Measure the waits of Jobs that were seen waiting before and are ready now."""
        before = self._waiting.get(view.uid, frozenset())
        waiting = frozenset(job.name for job in observed.jobs if job.outcome == "active" and not job.ready)
        self._waiting[view.uid] = waiting
        return [one for job in observed.jobs if job.name in before and job.ready for one in _wait(job, self._clock())]

    def _record(self, measurements: list[Measurement], uid: str = "") -> None:
        context = round_context(uid) if uid else None
        for one in measurements:
            self._telemetry.metrics.record(one.metric, one.value, one.attributes, context)


def _wait(job: JobView, now: datetime) -> list[Measurement]:
    if job.created is None or job.started is None:
        return []
    who = {m.ROLE: job.role, m.GPU: job.gpu}
    return [
        Measurement(m.JOB_WAIT, _seconds(job.created, job.started), {**who, m.WAIT: "quota"}),
        Measurement(m.JOB_WAIT, _seconds(job.started, now), {**who, m.WAIT: "start"}),
    ]
