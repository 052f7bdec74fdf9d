"""The plan while it is being made: collects actions and the next status. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from umim.api.base import parse_duration, shortened
from umim.api.hospital import HospitalSpec
from umim.api.jobs import JobConfig
from umim.api.round import FederationRoundSpec, JobStatus, SiteStatus
from umim.contract import Role, job_name
from umim.rounds.configs import site_config
from umim.rounds.publication import ModelPublication, reference
from umim.rounds.windows import closes_at
from umim_operator import attempts, display, events
from umim_operator.attempts import S
from umim_operator.conditions import ConditionType, Reason, set_condition
from umim_operator.state import (
    JobReference,
    JobView,
    Launch,
    LedgerEntry,
    Observed,
    Plan,
    RetryPolicy,
    RoundView,
    Timing,
)

LONGEST_CONDITION_MESSAGE = 32768


class Draft:
    """Collects what one call of the planner decides."""

    def __init__(self, view: RoundView, observed: Observed, now: datetime, timing: Timing) -> None:
        self.view = view
        self.observed = observed
        self.now = now
        self.timing = timing
        self.status = view.status
        self.launches: list[Launch] = []
        self.publications: list[ModelPublication] = []
        self.ledger: list[LedgerEntry] = []
        self.delete_round = False
        self._stops: list[JobReference] = []
        self._spent: list[JobReference] = []
        self._look_again: timedelta | None = None

    @property
    def spec(self) -> FederationRoundSpec:
        """The spec of a round that parses; acceptance has checked that."""
        return self.view.valid_spec

    @property
    def policy(self) -> RetryPolicy:
        """The retry policy of all Jobs of the round."""
        return RetryPolicy(self.spec.retries)

    @property
    def deadline(self) -> datetime:
        """When missing updates are no longer waited for."""
        return (self.status.start_time or self.now) + parse_duration(self.spec.deadline)

    def set(self, **fields: Any) -> None:
        """Change fields of the next status."""
        self.status = self.status.model_copy(update=fields)

    def condition(self, type_: ConditionType, value: bool, reason: Reason, message: str) -> None:
        """Set one condition of the next status."""
        conditions, text = self.status.conditions, shortened(message, LONGEST_CONDITION_MESSAGE)
        self.set(conditions=set_condition(conditions, type_, value, reason, text, self.view.generation, self.now))

    def wait(self, delay: timedelta) -> None:
        """Look again after the delay, or sooner if something else asks for it."""
        delay = max(delay, timedelta(seconds=1))
        self._look_again = delay if self._look_again is None else min(self._look_again, delay)

    def wait_until(self, time: datetime) -> None:
        """Look again at that time, or sooner if something else asks for it."""
        self.wait(time - self.now)

    def stop(self, job: JobView | None) -> None:
        """Delete a Job and its Secret."""
        if job is not None:
            self._stops.append(JobReference(job.namespace, job.name))

    def stop_all(self) -> None:
        """Stop every Job of the round that runs."""
        for job in self.observed.jobs:
            if job.outcome == "active":
                self.stop(job)

    def spend(self, job: JobView) -> None:
        """Delete the Secret of a Job that has ended."""
        self._spent.append(JobReference(job.namespace, job.name))

    def launch_site(self, site: SiteStatus) -> SiteStatus:
        """Launch the next attempt of a site."""
        hospital = self.observed.hospitals[site.name].spec
        if hospital is None:
            raise ValueError(f"{site.name} was launched without consent")
        end = min(self.deadline, closes_at(hospital.time_windows, self.now) or self.deadline)
        return self._launch(
            site,
            ("site", site.name, site.namespace),
            lambda new: site_config(self.view, self.status, new, hospital),
            end - self.now + self.timing.job_grace,
            hospital,
        )

    def server_job(self, current: JobStatus, role: Role, config: Callable[[int], JobConfig]) -> JobStatus:
        """Move a Job of the server on, launching its next attempt when it is due."""
        job = self.observed.job(role, "")
        before = current.failures
        current = attempts.advance(attempts.adopt(current, job), job, self.policy, self.now)
        if current.failures > before and job is not None:
            self.spend(job)
        if current.retry_time is not None:
            self.wait_until(current.retry_time)
        if current.phase == "Running":
            self.wait(self.timing.progress_interval)  # no event tells that its Pod cannot start
            current = current.model_copy(update={"progress": self.observed.progress.get(role, current.progress)})
        if current.phase != "Pending":
            return current
        place = (role, "", self.view.namespace)
        return self._launch(current, place, lambda new: config(new.attempt), self.timing.server_job_limit)

    def _launch(
        self,
        current: S,
        place: tuple[Role, str, str],
        config: Callable[[S], JobConfig],
        time_left: timedelta,
        hospital: HospitalSpec | None = None,
    ) -> S:
        """Launch the next attempt. place: role, site and namespace of its Job."""
        role, site, namespace = place
        name = job_name(role, self.view.name, self.view.uid, site, current.attempt + 1)
        new = attempts.launched(current, name)
        self.launches.append(
            Launch(
                reference=JobReference(namespace, name),
                role=role,
                site=site,
                attempt=new.attempt,
                config=config(new),
                hospital=hospital,
                time_left=time_left,
            )
        )
        self.wait(self.timing.progress_interval)
        return new

    def fail(self, reason: Reason, message: str) -> None:
        """End the round without a model. What still runs is stopped."""
        self.stop_all()
        stopped = {
            "phase": "Failed",
            "reason": str(reason),
            "message": "Stopped: the round failed.",
            "retry_time": None,
        }
        self.set(
            sites=[
                site.model_copy(update=stopped) if site.phase in ("Running", "Backoff") else site
                for site in self.status.sites
            ]
        )
        self.condition("Failed", True, reason, message)
        self.condition("Complete", False, reason, message)
        self.set(phase="Failed", reason=str(reason), completion_time=self.now)
        self._look_again = None

    def complete(self, model: ModelPublication) -> None:
        """End the round with its model."""
        message = f"GlobalModel {model.name} is published. {display.outliers(self.status.sites)}".strip()
        self.publications.append(model)
        self.set(global_model=reference(model))
        self.condition("Aggregated", True, Reason.PUBLISHED, message)
        self.condition("Complete", True, Reason.PUBLISHED, message)
        self.set(phase="Complete", reason=str(Reason.PUBLISHED), completion_time=self.now)

    def finish(self) -> Plan:
        """Return the plan."""
        sites = self.status.sites
        if self.view.spec is not None and sites:
            quorum = self.view.spec.participants.quorum
            self.set(sites_summary=display.sites_summary(sites, quorum), progress=display.progress(sites))
        return Plan(
            status=self.status,
            stops=_unique(self._stops),
            spent=_unique(self._spent),
            publications=tuple(self.publications),
            ledger=tuple(self.ledger),
            launches=tuple(self.launches),
            events=events.between(self.view.status, self.status),
            delete_round=self.delete_round,
            look_again=self._look_again,
        )


def _unique(references: list[JobReference]) -> tuple[JobReference, ...]:
    return tuple(dict.fromkeys(references))
