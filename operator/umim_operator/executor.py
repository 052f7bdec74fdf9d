"""Carries out plans: observe, plan, apply, then one status write. The thin edge around the planner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalStatus
from umim.api.round import FederationRoundStatus, Progress, SiteStatus
from umim.artifacts.manifests import ManifestError, get_manifest, read_job_result, read_model_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, StoreError, UmimError, UntrustedStoreError
from umim.progress import ProgressReader
from umim.rounds.publication import ModelPublication
from umim.telemetry import round_context, round_trace_id, step, traceparent
from umim_operator import attempts, builders, events, launches, ledger, observe
from umim_operator.actors import NOTHING, Everything, Outlook
from umim_operator.conditions import Reason, is_true
from umim_operator.config import JobDefaults
from umim_operator.credentials import Mint
from umim_operator.hospitals import Hospitals
from umim_operator.kube import REFUSALS, ConflictError, ForbiddenError, Kube, KubeError, MissingError
from umim_operator.measures import Measures
from umim_operator.planner import SETTLED, finished, plan, unreconciled
from umim_operator.state import (
    DamagedManifest,
    Event,
    HospitalView,
    JobReference,
    JobView,
    Launch,
    LedgerEntry,
    Observed,
    Plan,
    RoundView,
    newest_jobs,
)

Object = dict[str, Any]
S = TypeVar("S")
T = TypeVar("T")
ACTIONS_AT_ONCE = 4
"""Of all looks together: most of an action is waiting for an answer, and a large round has thousands."""
_log = logging.getLogger(__name__)


class Executor:
    """Reconciles rounds, one call a look. Holds no state of any round."""

    def __init__(
        self,
        kube: Kube,
        hospitals: Hospitals,
        store: ObjectStore,
        mint: Mint,
        progress: ProgressReader | None,
        measures: Measures,
        defaults: JobDefaults,
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._hospitals = hospitals
        self._store = store
        self._mint = mint
        self._progress = progress
        self._measures = measures
        self._defaults = defaults
        self._clock = clock
        self._threads = ThreadPoolExecutor(ACTIONS_AT_ONCE, thread_name_prefix="action")

    def reconcile(self, namespace: str, name: str) -> Outlook:
        """Look at the round once and do what is next. Returns what it waits for then.

        Raises KubeError, StoreError: nothing is lost, call again.
        """
        try:
            body = self._kube.get("FederationRound", namespace, name)
        except MissingError:
            return NOTHING
        view = observe.round_view(body)
        if view.deleting:
            return NOTHING
        with self._measures.reconciling(view):
            return self._look(view, body)

    def _look(self, view: RoundView, body: Object) -> Outlook:
        now = self._clock()  # one time for both: what counts at the deadline must have been read
        try:
            observed = self._observe(view, now)
            self._measures.looked(view, observed)
            next_ = plan(view, observed, now)
            refused = self._apply(view, body, observed, next_)
        except UmimError as error:
            self._tell(view, body, error)
            raise
        return outlook(view, next_.status, attempts.REFUSED_WAIT if refused else next_.look_again)

    def _tell(self, view: RoundView, body: Object, error: UmimError) -> None:
        """Say on the round why it does not go on, for those who do not read the operator's log."""
        if isinstance(error, UntrustedStoreError):
            reason, todo = Reason.STORE_NOT_TRUSTED, "The operator tries again by itself."
        elif isinstance(error, StoreError):
            reason, todo = Reason.STORE_UNAVAILABLE, "Look at the object store: does it run, has it room, are its"
            todo = f"{todo} address and the operator's credentials right? The operator tries again by itself."
        else:
            reason, todo = Reason.RECONCILE_FAILED, "The operator tries again by itself; mend what the message names."
        status = unreconciled(view, reason, f"{str(error).removesuffix('.')}. {todo}", self._clock())
        try:
            self._write_status(view, body, status)
        except ConflictError:
            return  # the next look tells it
        for event in events.between(view.status, status):
            self._emit(view, event)

    def clean(self, namespace: str, name: str) -> bool:
        """Remove everything of a deleted round but its GlobalModel. Returns whether nothing is left."""
        view = observe.round_view(self._kube.get("FederationRound", namespace, name))
        places = sorted({namespace, *(site.namespace for site in view.status.sites)})
        left = sum(self._clean_namespace(place, view) for place in places)
        if left:
            return False
        self._store.delete_prefix(contract.round_prefix(view.uid))
        if self._progress is not None:
            # All users, not those of the status: a launch that was refused has made one which no status names.
            self._progress.drop_users(view.uid)
            self._progress.delete_streams(view.uid)
        self._measures.gone(view.uid)
        return True

    def _clean_namespace(self, namespace: str, view: RoundView) -> int:
        """Delete the round's objects there. Returns how many Jobs are not gone yet."""
        marks = {contract.LABEL_ROUND_UID: view.uid}
        try:
            for name in launches.secret_names(view, namespace):
                self._kube.delete("Secret", namespace, name)
            self._kube.delete_all("Job", namespace, marks)
        except (ForbiddenError, MissingError) as error:
            # The hospital took the operator's rights or its namespace away: what is there is its own now.
            _log.warning("cannot clean namespace %s: %s", namespace, error)
            return 0
        return len(self._kube.list("Job", namespace, marks))

    # observation

    def _observe(self, view: RoundView, now: datetime) -> Observed:
        if finished(view):
            return Observed()
        status, late = view.status, view.deadline is not None and now >= view.deadline
        jobs = self._jobs(view, now, late)
        results = self._results(view, jobs)
        return Observed(
            hospitals=self._consent(view),
            jobs=jobs,
            updates=self._updates(view, jobs, late),
            results=results,
            models=self._models(results),
            parent=self._parent(view) if status.parent is None else None,
            progress=self._live(view),
        )

    def _jobs(self, view: RoundView, now: datetime, late: bool) -> tuple[JobView, ...]:
        """Read the Jobs, with Pods or Workloads of those that need explaining. Only their bodies are kept in memory."""
        jobs, unclear = {}, {}
        for body in self._kube.each("Job", labels={contract.LABEL_ROUND_UID: view.uid}):
            job = observe.job_view(body, ())
            jobs[job.name] = job
            if job.suspended or observe.needs_pods(body, now):
                unclear[job.name] = body
        for job in [] if late else observe.deferred(view.status, jobs.values()):
            jobs[job.name] = job
            unclear.pop(job.name, None)
        for name in observe.explained(view.status, jobs.values(), unclear, now):
            body, suspended = unclear.pop(name), jobs[name].suspended
            pods = [] if suspended else self._pods(jobs[name])
            jobs[name] = observe.job_view(body, pods, self._workloads(body) if suspended else [])
        for name in unclear:
            jobs[name] = replace(jobs[name], explained=False)
        return tuple(jobs.values())

    def _pods(self, job: JobView) -> list[Object]:
        try:
            return self._kube.list("Pod", job.namespace, {"batch.kubernetes.io/job-name": job.name})
        except ForbiddenError:
            return []  # the hospital withdrew the right to look; the Job's own condition must do

    def _workloads(self, job: Object) -> list[Object]:
        """Return what stands for a suspended Job in Kueue's queue; nothing where that cannot be read."""
        meta = job["metadata"]
        try:
            return self._kube.list("Workload", meta["namespace"], {contract.LABEL_JOB_UID: meta["uid"]})
        except (ForbiddenError, MissingError):  # MissingError: the cluster has no Kueue
            return []

    def _consent(self, view: RoundView) -> Mapping[str, HospitalView]:
        """Read the hospitals whose consent still matters."""
        if view.spec is None or is_true(view.status.conditions, "TrainingFinished"):
            return {}
        selector = view.spec.participants.selector
        if not view.status.sites and selector is not None:
            return self._hospitals.select(selector.match_labels)
        unsettled = [site.reference for site in view.status.sites if site.phase not in SETTLED]
        return self._hospitals.get(unsettled if view.status.sites else view.spec.participants.hospitals or [])

    def _updates(
        self, view: RoundView, jobs: tuple[JobView, ...], late: bool
    ) -> dict[tuple[str, int], UpdateManifest | DamagedManifest]:
        """Read the manifests of attempts whose Job is no longer active, and at the deadline those of all attempts."""
        newest = newest_jobs(jobs)
        open_ = [(site, newest.get(("site", site.name))) for site in view.status.sites if site.phase not in SETTLED]
        adopted = [(attempts.adopt(site, job), job) for site, job in open_]
        ended = [site for site, job in adopted if site.attempt and (late or not _is_active(job, site))]
        if not ended:
            return {}
        listed = {item.key for item in self._store.list(contract.round_prefix(view.uid) + "sites/")}
        keys = {site.name: contract.update_manifest_key(view.uid, site.name, site.attempt) for site in ended}
        committed = [site for site in ended if keys[site.name] in listed]
        updates = self._all(lambda site: self._update(keys[site.name], view.uid, site), committed)
        return {(site.name, site.attempt): update for site, update in zip(committed, updates, strict=True)}

    def _update(self, key: str, uid: str, site: SiteStatus) -> UpdateManifest | DamagedManifest:
        try:
            return observe.update_or_damage(get_manifest(self._store, key), uid, site)
        except ManifestError as error:
            return DamagedManifest(f"The manifest of the update is damaged: {error}.")

    def _results(self, view: RoundView, jobs: tuple[JobView, ...]) -> dict[contract.Role, JobResult]:
        """Read the result of the server's Job that the round waits for, when the Job is no longer active."""
        role: contract.Role = "init" if view.status.parent is None else "aggregate"
        known = view.status.initialization if role == "init" else view.status.aggregation
        mine = [job for job in jobs if job.role == role]
        if (known is None and not mine) or any(job.outcome == "active" for job in mine):
            return {}
        result = read_job_result(self._store, view.uid, role)
        return {} if result is None else {role: result}

    def _models(self, results: Mapping[contract.Role, JobResult]) -> dict[str, ModelManifest]:
        digests = {result.model_digest for result in results.values() if result.model_digest is not None}
        return {digest: read_model_manifest(self._store, digest) for digest in sorted(digests)}

    def _parent(self, view: RoundView) -> GlobalModelSpec | None:
        name = view.spec.model.parent.global_model if view.spec is not None else None
        if name is None:
            return None
        try:
            body = self._kube.get("GlobalModel", view.namespace, name)
        except MissingError:
            return None
        return GlobalModelSpec.model_validate(body["spec"])

    def _live(self, view: RoundView) -> Mapping[str, Progress]:
        sources = [site.name for site in view.status.sites if site.phase == "Running"]
        sources += [role for role, job in view.status.server_jobs().items() if job.phase == "Running"]
        if self._progress is None or not sources:
            return {}
        return self._progress.latest(view.uid, sources).by_source

    # action

    def _apply(self, view: RoundView, body: Object, observed: Observed, next_: Plan) -> bool:
        """Carry out the plan. Returns whether the API server refused a Job."""
        if next_.delete_round:
            self._kube.delete("FederationRound", view.namespace, view.name, uid=view.uid)
            return False
        jobs = {job.name: job for job in observed.jobs}
        stops = set(next_.stops)
        self._all(
            lambda one: self._retire(view, one, jobs.get(one.name), delete_job=one in stops),
            (*next_.stops, *next_.spent),
        )
        for publication in next_.publications:
            with step("publish"):
                self._publish(view, publication)
        self._all(self._record, next_.ledger)
        self._all(lambda launch: self._renew(view, launch), next_.renewals)
        refused = self._launch_all(view, next_.launches)
        status = attempts.without_refused(next_.status, refused, self._clock()) if refused else next_.status
        if self._write_status(view, body, status):
            self._measures.wrote(view, observed, replace(next_, status=status))
        for event in events.between(view.status, status) if refused else next_.events:
            self._emit(view, event)
        return bool(refused)

    def _retire(self, view: RoundView, reference: JobReference, job: JobView | None, *, delete_job: bool) -> None:
        try:
            self._kube.delete("Secret", reference.namespace, reference.name)
            if delete_job:
                self._kube.delete("Job", reference.namespace, reference.name)
        except ForbiddenError as error:
            _log.warning("cannot clean %s in namespace %s: %s", reference.name, reference.namespace, error)
        attempt = (job.site or job.role, job.attempt) if job is not None else _attempts(view.status).get(reference.name)
        if attempt is not None:
            self._mint.revoke(view.uid, *attempt)

    def _launch_all(self, view: RoundView, wanted: Sequence[Launch]) -> dict[str, str]:
        """Create the Jobs. Returns those that the API server refused, with what it said."""
        answers = self._all(lambda launch: self._launch(view, launch), wanted)
        return {
            launch.reference.name: answer for launch, answer in zip(wanted, answers, strict=True) if answer is not None
        }

    def _renew(self, view: RoundView, launch: Launch) -> None:
        try:
            self._issue(view, launch)
        except KubeError as error:
            if error.status not in REFUSALS:
                raise
            _log.warning("%s/%s: %s", view.namespace, view.name, error)

    def _issue(self, view: RoundView, launch: Launch) -> None:
        """Make the Secret with the credentials of an attempt."""
        end = self._clock() + launch.time_left
        credentials = self._mint.issue(launch.config, end, launch.time_left)
        self._kube.recreate(builders.secret(view, launch, credentials), "Secret")

    def _launch(self, view: RoundView, launch: Launch) -> str | None:
        """Create one Job and its Secret. Returns what the API server said where it refused."""
        context = traceparent(round_context(view.uid))
        try:
            self._issue(view, launch)
            # One of this name is this attempt, launched before a crash.
            self._kube.ensure(builders.job(view, launch, self._defaults, context), "Job")
        except KubeError as error:
            if error.status not in REFUSALS:
                raise
            _log.warning("%s/%s: %s", view.namespace, view.name, error)
            return str(error)
        return None

    def _all(self, action: Callable[[S], T], items: Sequence[S]) -> list[T]:
        """Do the same with each item, a few at once, in any order. Raises the first error when all are done."""
        if len(items) <= 1:
            return [action(item) for item in items]
        # Each with the current context, so that its log lines carry the trace.
        futures = [self._threads.submit(copy_context().run, action, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    def _publish(self, view: RoundView, publication: ModelPublication) -> None:
        try:
            self._kube.create(builders.global_model(view.namespace, publication), "GlobalModel")
        except ConflictError:
            there = self._kube.get("GlobalModel", view.namespace, publication.name)["spec"]
            wanted = publication.spec
            if (there["digest"], there.get("partsDigest")) != (wanted.digest, wanted.parts_digest):
                raise ArtifactError(
                    f"GlobalModel {publication.name} exists with digest {there['digest']} and parts "
                    f"{there.get('partsDigest')}, not {wanted.digest} and {wanted.parts_digest}: delete it to publish "
                    "this one"
                ) from None

    def _record(self, entry: LedgerEntry) -> None:
        reference = entry.hospital
        try:
            body = self._kube.get("Hospital", reference.namespace, reference.name)
        except MissingError:
            return
        before = HospitalStatus.model_validate(body.get("status") or {})
        after = ledger.record(before, entry.participation, body["metadata"]["generation"])
        if after != before:
            self._kube.replace_status("Hospital", body, after.to_dict())
            self._measures.hospital(replace(observe.hospital_view(body), epsilon_spent=after.epsilon_spent))

    def _write_status(self, view: RoundView, body: Object, status: FederationRoundStatus) -> bool:
        """Write the status where it changed. Returns whether it did."""
        if status.trace_id is None:
            status = status.model_copy(update={"trace_id": round_trace_id(view.uid)})
        if status == view.status:
            return False
        self._kube.replace_status("FederationRound", body, status.to_dict())
        return True

    def _emit(self, view: RoundView, event: Event) -> None:
        level = logging.WARNING if event.type == "Warning" else logging.INFO
        _log.log(level, "%s/%s: %s: %s", view.namespace, view.name, event.reason, event.message)
        subject = {"namespace": view.namespace, "name": view.name, "uid": view.uid}
        self._kube.create(events.manifest(event, "FederationRound", subject, self._clock()), "Event")


def _attempts(status: FederationRoundStatus) -> dict[str, tuple[str, int]]:
    """Return who made which attempt, by the names of the Jobs on record: somebody may have deleted them."""
    found = {site.job: (site.name, site.attempt) for site in status.sites}
    found |= {job.job: (role, job.attempt) for role, job in status.server_jobs().items()}
    return {name: attempt for name, attempt in found.items() if name is not None}


def _is_active(job: JobView | None, site: SiteStatus) -> bool:
    return job is not None and job.attempt == site.attempt and job.outcome == "active"


def outlook(view: RoundView, status: FederationRoundStatus, again: timedelta | None) -> Outlook:
    """Return what a round waits for by its new status. Pure."""
    if view.spec is None or status.completion_time is not None or is_true(status.conditions, "TrainingFinished"):
        return Outlook(again)
    if status.sites:
        return Outlook(again, frozenset(site.name for site in status.sites if site.phase not in SETTLED))
    named = view.spec.participants.hospitals
    sites = Everything() if named is None else frozenset(reference.site for reference in named)
    return Outlook(again, sites, models=True)
