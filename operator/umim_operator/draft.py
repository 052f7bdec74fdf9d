"""The plan while it is being made: collects actions and the next status. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from umim.api.base import parse_duration, shortened
from umim.api.jobs import JobConfig
from umim.api.round import FederationRoundSpec, JobStatus, SiteStatus
from umim.contract import Role, job_name
from umim.rounds.configs import site_config
from umim.rounds.publication import ModelPublication, reference
from umim.rounds.windows import closes_at
from umim_operator import attempts, display, events
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
        self.renewals: list[Launch] = []
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

    def wait_for_progress(self) -> None:
        """Look again when it is time for live progress: no event tells that, nor that a Pod cannot start."""
        timing = self.timing
        grown = timing.progress_interval * max(1.0, len(self.status.sites) / timing.small)
        self.wait(min(grown, timing.longest_progress_interval))

    def go_on(self) -> None:
        """Look again at once: there is more to do, but first what was decided must be on record."""
        self._look_again = timedelta(0)

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

    def spend(self, ended: JobStatus | SiteStatus, namespace: str) -> None:
        """Delete the Secret of an attempt that has ended, also where somebody deleted its Job."""
        if ended.job is not None:
            self._spent.append(JobReference(namespace, ended.job))

    def launch_site(self, site: SiteStatus) -> SiteStatus:
        """Launch the next attempt of a site."""
        name = job_name("site", self.view.name, self.view.uid, site.name, site.attempt + 1)
        hospital = self.observed.hospitals[site.name].spec
        new = attempts.launched(site, name, None if hospital is None else hospital.queue_name)
        self.launches.append(self._site_launch(new, name))
        self.wait_for_progress()
        return new

    def renew_site(self, site: SiteStatus, job: JobView | None) -> None:
        """Give the site's Job another Secret when its own is gone."""
        if job is not None and attempts.lacks_secret(site, job):
            self.renewals.append(self._site_launch(site, job.name))

    def _site_launch(self, site: SiteStatus, name: str) -> Launch:
        hospital = self.observed.hospitals[site.name].spec
        if hospital is None:
            raise ValueError(f"{site.name} was launched without consent")
        end = min(self.deadline, closes_at(hospital.time_windows, self.now) or self.deadline)
        return Launch(
            reference=JobReference(site.namespace, name),
            role="site",
            site=site.name,
            attempt=site.attempt,
            config=site_config(self.view, self.status, site, hospital),
            hospital=hospital,
            time_left=end - self.now + self.timing.job_grace,
            queue=hospital.queue_name,
        )

    def server_job(self, current: JobStatus, role: Role, config: Callable[[int], JobConfig]) -> JobStatus:
        """Move a Job of the server on, launching its next attempt when it is due."""
        job = self.observed.job(role, "")
        before = attempts.adopt(current, job)
        current = attempts.advance(before, job, self.policy, self.now)
        if current.failures > before.failures:
            self.spend(before, self.view.namespace)
        if current.retry_time is not None:
            self.wait_until(current.retry_time)
        if current.phase in attempts.STARTED:
            self.wait_for_progress()
            current = current.model_copy(update={"progress": self.observed.progress.get(role, current.progress)})
        if job is not None and attempts.lacks_secret(current, job):
            self.renewals.append(self._server_launch(role, current.attempt, job.name, config))
        if current.phase != "Pending":
            return current
        name = job_name(role, self.view.name, self.view.uid, "", current.attempt + 1)
        new = attempts.launched(current, name, self.spec.queue_name)
        self.launches.append(self._server_launch(role, new.attempt, name, config))
        self.wait_for_progress()
        return new

    def _server_launch(self, role: Role, attempt: int, name: str, config: Callable[[int], JobConfig]) -> Launch:
        return Launch(
            reference=JobReference(self.view.namespace, name),
            role=role,
            site="",
            attempt=attempt,
            config=config(attempt),
            hospital=None,
            time_left=self.timing.server_job_limit,
            queue=self.spec.queue_name,
        )

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
                site.model_copy(update=stopped) if site.phase in (*attempts.STARTED, "Backoff") else site
                for site in self.status.sites
            ]
        )
        self.condition("Failed", True, reason, message)
        self.condition("Complete", False, reason, message)
        self.set(phase="Failed", reason=str(reason), completion_time=self.now)
        self.go_on()  # the next look knows when the round's time is over

    def complete(self, model: ModelPublication) -> None:
        """End the round with its model."""
        message = f"GlobalModel {model.name} is published. {display.outliers(self.status.sites)}".strip()
        self.publications.append(model)
        self.set(global_model=reference(model))
        self.condition("Aggregated", True, Reason.PUBLISHED, message)
        self.condition("Complete", True, Reason.PUBLISHED, message)
        self.set(phase="Complete", reason=str(Reason.PUBLISHED), completion_time=self.now)
        self.go_on()

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
            renewals=tuple(self.renewals),
            launches=tuple(self.launches),
            events=events.between(self.view.status, self.status),
            delete_round=self.delete_round,
            look_again=self._look_again,
        )


def _unique(references: list[JobReference]) -> tuple[JobReference, ...]:
    return tuple(dict.fromkeys(references))
