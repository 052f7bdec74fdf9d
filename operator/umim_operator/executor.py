"""Carries out plans: observe, plan, apply, then one status write. The thin edge around the planner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.globalmodel import GlobalModelSpec
from umim.api.hospital import HospitalStatus
from umim.api.round import FederationRoundStatus, Progress, SiteStatus
from umim.artifacts.manifests import ManifestError, get_manifest, read_job_result, read_model_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError
from umim.progress import ProgressReader
from umim.rounds.publication import ModelPublication
from umim.telemetry import Telemetry, round_context, round_trace_id, traceparent
from umim_operator import attempts, builders, events, launches, ledger, observe
from umim_operator.config import JobDefaults
from umim_operator.credentials import Mint
from umim_operator.kube import REFUSALS, ConflictError, ForbiddenError, Kube, KubeError, MissingError
from umim_operator.planner import SETTLED, plan
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
_log = logging.getLogger(__name__)


class Executor:
    """Reconciles rounds, one call a look. Holds no state of any round."""

    def __init__(
        self,
        kube: Kube,
        store: ObjectStore,
        mint: Mint,
        progress: ProgressReader | None,
        telemetry: Telemetry,
        defaults: JobDefaults,
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._mint = mint
        self._progress = progress
        self._telemetry = telemetry
        self._defaults = defaults
        self._clock = clock

    def reconcile(self, namespace: str, name: str) -> timedelta | None:
        """Look at the round once and do what is next. Returns when to look again; None: when something changes.

        Raises KubeError, StoreError: nothing is lost, call again.
        """
        try:
            body = self._kube.get("FederationRound", namespace, name)
        except MissingError:
            return None
        view = observe.round_view(body)
        if view.deleting:
            return None
        started, outcome = self._clock(), "error"
        try:
            attributes = {"umim.round": f"{namespace}/{name}"}
            with self._telemetry.span("umim.reconcile", attributes, round_context(view.uid)):
                again = self._look(view, body)
            outcome = "success"
        finally:
            seconds = (self._clock() - started).total_seconds()
            self._telemetry.metrics.reconcile_duration.record(seconds, {"outcome": outcome})
        return again

    def _look(self, view: RoundView, body: Object) -> timedelta | None:
        observed = self._observe(view)
        next_ = plan(view, observed, self._clock())
        refused = self._apply(view, body, observed, next_)
        return attempts.REFUSED_WAIT if refused else next_.look_again

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

    def _observe(self, view: RoundView) -> Observed:
        jobs = self._jobs(view)
        status = view.status
        results = self._results(view, jobs)
        return Observed(
            hospitals=self._hospitals(view),
            jobs=jobs,
            updates=self._updates(view, jobs),
            results=results,
            models=self._models(results),
            parent=self._parent(view) if status.parent is None else None,
            progress=self._live(view),
        )

    def _jobs(self, view: RoundView) -> tuple[JobView, ...]:
        bodies = self._kube.list("Job", labels={contract.LABEL_ROUND_UID: view.uid})
        return tuple(observe.job_view(body, self._pods(body)) for body in bodies)

    def _pods(self, job: Object) -> list[Object]:
        if not observe.needs_pods(job):
            return []
        meta = job["metadata"]
        try:
            return self._kube.list("Pod", meta["namespace"], {"batch.kubernetes.io/job-name": meta["name"]})
        except ForbiddenError:
            return []  # the hospital withdrew the right to look; the Job's own condition must do

    def _hospitals(self, view: RoundView) -> dict[str, HospitalView]:
        if view.spec is None:
            return {}
        wanted = [site.reference for site in view.status.sites]
        selector = view.spec.participants.selector
        if not wanted and selector is not None:
            found = [observe.hospital_view(body) for body in self._kube.list("Hospital", labels=selector.match_labels)]
            return {item.reference.site: item for item in found}
        wanted = wanted or view.spec.participants.hospitals or []
        sites = {reference.site for reference in wanted}
        namespaces = {reference.namespace for reference in wanted}
        bodies = [body for place in sorted(namespaces) for body in self._kube.list("Hospital", place)]
        views = [observe.hospital_view(body) for body in bodies]
        return {item.reference.site: item for item in views if item.reference.site in sites}

    def _updates(
        self, view: RoundView, jobs: tuple[JobView, ...]
    ) -> dict[tuple[str, int], UpdateManifest | DamagedManifest]:
        """Read the manifests of attempts whose Job is no longer active, and at the deadline those of all attempts."""
        newest = newest_jobs(jobs)
        open_ = [(site, newest.get(("site", site.name))) for site in view.status.sites if site.phase not in SETTLED]
        late = view.deadline is not None and self._clock() >= view.deadline
        adopted = [(attempts.adopt(site, job), job) for site, job in open_]
        ended = [site for site, job in adopted if site.attempt and (late or not _is_active(job, site))]
        if not ended:
            return {}
        listed = {item.key for item in self._store.list(contract.round_prefix(view.uid) + "sites/")}
        found: dict[tuple[str, int], UpdateManifest | DamagedManifest] = {}
        for site in ended:
            key = contract.update_manifest_key(view.uid, site.name, site.attempt)
            if key in listed:
                found[site.name, site.attempt] = self._update(key, view.uid, site)
        return found

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
        for reference in (*next_.stops, *next_.spent):
            self._retire(view, reference, jobs.get(reference.name), delete_job=reference in next_.stops)
        for publication in next_.publications:
            self._publish(view, publication)
        for entry in next_.ledger:
            self._record(entry)
        refused = self._launch_all(view, next_.launches)
        status = attempts.without_refused(next_.status, refused, self._clock()) if refused else next_.status
        self._write_status(view, body, status)
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
        if job is not None:
            self._mint.revoke(view.uid, job.site or job.role, job.attempt)

    def _launch_all(self, view: RoundView, wanted: Sequence[Launch]) -> dict[str, str]:
        """Create the Jobs. Returns those that the API server refused, with what it said."""
        refused: dict[str, str] = {}
        for launch in wanted:
            try:
                self._launch(view, launch)
            except KubeError as error:
                if error.status not in REFUSALS:
                    raise
                refused[launch.reference.name] = str(error)
                _log.warning("%s/%s: %s", view.namespace, view.name, error)
        return refused

    def _launch(self, view: RoundView, launch: Launch) -> None:
        end = self._clock() + launch.time_left
        credentials = self._mint.issue(launch.config, end, launch.time_left)
        context = traceparent(round_context(view.uid))
        self._kube.recreate(builders.secret(view, launch, credentials), "Secret")
        self._kube.apply(builders.job(view, launch, self._defaults, context), "Job")

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

    def _write_status(self, view: RoundView, body: Object, status: FederationRoundStatus) -> None:
        if status.trace_id is None:
            status = status.model_copy(update={"trace_id": round_trace_id(view.uid)})
        if status == view.status:
            return
        self._kube.replace_status("FederationRound", body, status.to_dict())
        if status.completion_time is not None and view.status.completion_time is None:
            self._measure(view, status, status.completion_time)

    def _measure(self, view: RoundView, status: FederationRoundStatus, end: datetime) -> None:
        """Record the round that has just ended."""
        start = view.created or end
        attributes = {"umim.round.phase": status.phase, "umim.round.reason": status.reason or ""}
        self._telemetry.record_round(view.uid, f"{view.namespace}/{view.name}", start, end, attributes)
        self._telemetry.metrics.round_finished.add(1, attributes)
        self._telemetry.metrics.round_duration.record((end - start).total_seconds(), attributes)

    def _emit(self, view: RoundView, event: Event) -> None:
        level = logging.WARNING if event.type == "Warning" else logging.INFO
        _log.log(level, "%s/%s: %s: %s", view.namespace, view.name, event.reason, event.message)
        subject = {"namespace": view.namespace, "name": view.name, "uid": view.uid}
        self._kube.create(events.manifest(event, "FederationRound", subject, self._clock()), "Event")


def _is_active(job: JobView | None, site: SiteStatus) -> bool:
    return job is not None and job.attempt == site.attempt and job.outcome == "active"
