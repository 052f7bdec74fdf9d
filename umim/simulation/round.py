"""One round in this process: start model, sites one after another, aggregation. By the Jobs' own functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from umim import contract
from umim.api.base import ApiModel, ModelReference, shortened
from umim.api.hospital import DatasetSpec, PrivacySpec
from umim.api.jobs import DatasetLocation
from umim.api.round import FederationRoundSpec, FederationRoundStatus, JobStatus, Progress, SiteStatus
from umim.artifacts.manifests import (
    manifest_bytes,
    parse_manifest,
    read_job_result,
    read_model_manifest,
    read_update_manifest,
)
from umim.artifacts.store import ObjectStore
from umim.entrypoints.aggregate import aggregate_once
from umim.entrypoints.pretrain import initialise_once
from umim.entrypoints.train_site import train_once
from umim.errors import ConfigError, DataError, PrivacyBudgetError, TrainingError
from umim.rounds.configs import aggregate_config, init_config, site_config
from umim.rounds.consent import refusal
from umim.rounds.publication import ModelPublication, base_publication, publication, reference
from umim.rounds.sites import judged, with_update
from umim.simulation.claims import Locate, data_path, fingerprint
from umim.simulation.resources import Hospital, participants
from umim.simulation.result import PublishedModel, RoundOutcome
from umim.training.privacy import allowed_progress
from umim.training.reporter import ProgressSink
from umim.training.site import Surroundings

WITHOUT_EFFECT = {"deadline", "queueName", "retries", "suspend", "ttlAfterFinished"}
"""Fields of a round that mean nothing here: they may change without making its results out of date."""
WITHOUT_EFFECT_OF_HOSPITAL = {"queueName", "timeWindows", "publicKey"}
"""The same for a Hospital: a simulation waits for nobody and signs nothing."""


@dataclass(frozen=True)
class SimulatedRound:
    """One round, as ``umim.rounds`` sees it."""

    namespace: str
    name: str
    uid: str
    valid_spec: FederationRoundSpec


Watch = Callable[[SimulatedRound, FederationRoundStatus], None]
"""Told the state of a round each time it changes."""


@dataclass(frozen=True)
class Setting:
    """Where everything of a simulation is."""

    store: ObjectStore
    """Holds models and updates."""
    work: Path
    """Folder for checkpoints and downloads."""
    locate: Locate
    """Finds the folder of a claim."""
    hospitals: Mapping[str, Hospital]
    """By site."""
    around: Surroundings
    """Device, clock, and who is told each report of a training."""
    watch: Watch


def round_uid(
    namespace: str, name: str, spec: FederationRoundSpec, parent: ModelReference | None, here: Setting
) -> str:
    """Return the UID of a round. It stands for all that decides the result: spec, parent, hospitals and their data.

    So what an earlier run committed is found again, and is not when something was changed. Raises ConfigError when a
    folder is missing.
    """
    sites = [here.hospitals[one.site] for one in participants(spec.participants, namespace, here.hospitals)]
    data = {one.site: _fingerprint(one, here) for one in sites if refusal(namespace, spec, one.spec) is None}
    if spec.server_dataset is not None:
        data[""] = fingerprint(data_path(spec.server_dataset, namespace, here.locate))
    parts: dict[str, Any] = {
        "round": [namespace, name],
        "spec": _without(spec, WITHOUT_EFFECT),
        "parent": None if parent is None else parent.to_dict(),
        "hospitals": {one.site: _without(one.spec, WITHOUT_EFFECT_OF_HOSPITAL) for one in sites},
        "data": data,
    }
    return "simulated-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _without(spec: ApiModel, fields: Set[str]) -> dict[str, Any]:
    return {field: value for field, value in spec.to_dict().items() if field not in fields}


def _fingerprint(hospital: Hospital, here: Setting) -> str:
    return fingerprint(data_path(hospital.spec.data, hospital.reference.namespace, here.locate))


class RoundRun:
    """Runs one round and keeps its status as the operator would."""

    def __init__(self, which: SimulatedRound, parent: ModelReference | None, here: Setting) -> None:
        """``parent`` is the model that the spec names; None where the round makes its start model."""
        self._round = which
        self._here = here
        self._models: list[ModelPublication] = []
        references = participants(which.valid_spec.participants, which.namespace, here.hospitals)
        sites = [SiteStatus(name=one.site, namespace=one.namespace, hospital=one.name) for one in references]
        self.status = FederationRoundStatus(sites=sites, parent=parent)

    def run(self, stage: str) -> RoundOutcome:
        """Run the round, or what is left of it, and return how it ended.

        A hospital that refuses, or whose data or training fails, is left out, as in a cluster; the round fails when
        too few are left. Raises the errors of start model and aggregation, and the store's.
        """
        started = self._here.around.clock.monotonic()
        earlier = self._read_outcome()
        if earlier is not None:
            self._set(**dict(earlier.status))  # who watches sees how it ended
            return earlier
        if self.status.parent is None:
            self._initialise()
        self._set(phase="Training", start_time=self._now())
        for site in self.status.sites:
            self._train(site)
        message = self._aggregate() if self._has_quorum() else self._too_few()
        seconds = self._here.around.clock.monotonic() - started
        self._set(phase="Failed" if message else "Complete", completion_time=self._now())
        outcome = RoundOutcome(
            stage=stage,
            name=self._round.name,
            uid=self._round.uid,
            seconds=round(seconds, 3),
            status=self.status,
            message=message,
            models=[PublishedModel(name=one.name, spec=one.spec) for one in self._models],
        )
        kept, key = manifest_bytes(outcome), _outcome_key(self._round.uid)
        if not message:
            self._here.store.put(key, kept)
        return parse_manifest(RoundOutcome, kept, key)  # the very value that a later run reads, in whole seconds

    def _read_outcome(self) -> RoundOutcome | None:
        """Return how an earlier run completed the round, or None. A round that failed runs again."""
        key = _outcome_key(self._round.uid)
        if self._here.store.stat(key) is None:
            return None
        return parse_manifest(RoundOutcome, self._here.store.get(key), key)

    def _initialise(self) -> None:
        store, uid = self._here.store, self._round.uid
        self._set(phase="Initializing", initialization=JobStatus(phase="Running", attempt=1))
        config = init_config(self._round, 1)
        config = config.model_copy(update=self._places(config.data, self._round.valid_spec.server_dataset))
        initialise_once(store, config, self._around(self._report_job("initialization")))
        result = read_job_result(store, uid, "init")
        assert result is not None  # initialise_once has committed it
        assert result.model_digest is not None  # a start model is always made
        made = base_publication(self._round, read_model_manifest(store, result.model_digest), result)
        self._models.append(made)
        done = self.status.initialization or JobStatus()
        self._set(parent=reference(made), initialization=done.model_copy(update={"phase": "Succeeded"}))

    def _train(self, site: SiteStatus) -> None:
        hospital = self._here.hospitals[site.name].spec
        refused = refusal(self._round.namespace, self._round.valid_spec, hospital)
        if refused is not None:
            self._set_site(site.name, phase="Refused", reason=str(refused.reason), message=shortened(refused.message))
            return
        self._set_site(site.name, phase="Running", attempt=1)
        config = site_config(self._round, self.status, self._site(site.name), hospital)
        config = config.model_copy(update=self._places(config.data, hospital.data, site.namespace))
        try:
            train_once(self._here.store, config, self._around(self._report_site(site.name, hospital.privacy)))
        except (DataError, ConfigError, TrainingError, PrivacyBudgetError) as error:
            # The same inputs would fail the same way again, so there is one attempt.
            reason = "PrivacyBudgetExceeded" if isinstance(error, PrivacyBudgetError) else "PermanentError"
            self._set_site(site.name, phase="Failed", failures=1, reason=reason, message=shortened(str(error)))
            return
        update = read_update_manifest(self._here.store, self._round.uid, site.name, 1)
        assert update is not None  # train_once has committed it
        self._replace_site(with_update(self._site(site.name), update))

    def _has_quorum(self) -> bool:
        done = sum(site.phase == "Succeeded" for site in self.status.sites)
        return done >= self._round.valid_spec.participants.quorum

    def _too_few(self) -> str:
        done = [site for site in self.status.sites if site.phase == "Succeeded"]
        quorum = self._round.valid_spec.participants.quorum
        others = [f"{site.name}: {site.message}" for site in self.status.sites if site.phase != "Succeeded"]
        return " ".join([f"{len(done)} updates, the quorum is {quorum}.", *others])

    def _aggregate(self) -> str:
        """Merge the updates and publish the model. Returns why there is none."""
        store, uid = self._here.store, self._round.uid
        self._set(phase="Aggregating", aggregation=JobStatus(phase="Running", attempt=1))
        config = aggregate_config(self._round, self.status, 1)
        config = config.model_copy(update=self._places(config.data, self._round.valid_spec.server_dataset))
        aggregate_once(store, config, self._around(self._report_job("aggregation")))
        result = read_job_result(store, uid, "aggregate")
        assert result is not None  # aggregate_once has committed it
        done = self.status.aggregation or JobStatus()
        self._set(
            sites=[judged(site, result) for site in self.status.sites],
            aggregation=done.model_copy(update={"phase": "Succeeded"}),
        )
        if result.model_digest is None:
            return result.message
        manifest = read_model_manifest(store, result.model_digest)
        made = publication(self._round, self.status, manifest, result)
        self._models.append(made)
        self._set(global_model=reference(made))
        return ""

    def _places(
        self, location: DatasetLocation | None, data: DatasetSpec | None, namespace: str = ""
    ) -> dict[str, Any]:
        """Return the fields of a Job's configuration that name paths of its container, as paths of this machine."""
        places: dict[str, Any] = {"work_path": str(self._here.work.resolve())}
        if location is not None and data is not None:
            path = data_path(data, namespace or self._round.namespace, self._here.locate).resolve()
            places["data"] = location.model_copy(update={"path": str(path)})
        return places

    def _around(self, report: ProgressSink) -> Surroundings:
        """Return the surroundings of one Job, whose reports go into the status, too."""

        def sink(progress: Progress) -> None:
            self._here.around.sink(progress)
            report(progress)

        return replace(self._here.around, sink=sink)

    def _report_site(self, name: str, privacy: PrivacySpec) -> ProgressSink:
        training = self._round.valid_spec.training
        return lambda progress: self._set_site(name, progress=allowed_progress(progress, training, privacy))

    def _report_job(self, field: str) -> ProgressSink:
        def report(progress: Progress) -> None:
            job: JobStatus = getattr(self.status, field)
            self._set(**{field: job.model_copy(update={"progress": progress})})

        return report

    def _site(self, name: str) -> SiteStatus:
        return next(site for site in self.status.sites if site.name == name)

    def _set_site(self, name: str, **fields: Any) -> None:
        self._replace_site(self._site(name).model_copy(update=fields))

    def _replace_site(self, changed: SiteStatus) -> None:
        self._set(sites=[changed if site.name == changed.name else site for site in self.status.sites])

    def _set(self, **fields: Any) -> None:
        """Change the status and tell who watches."""
        self.status = self.status.model_copy(update=fields)
        self._here.watch(self._round, self.status)

    def _now(self) -> datetime:
        return self._here.around.clock.now()


def _outcome_key(round_uid: str) -> str:
    return contract.round_prefix(round_uid) + "simulated.json"
