"""A little world carries out plans, with crashes at any point: whatever chance does, these rules hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import jsonschema
import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.crd import structural_schema
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim.contract import Role
from umim_operator.attempts import without_refused
from umim_operator.planner import plan
from umim_operator.state import DamagedManifest, JobOutcome, JobView, Launch, Observed, Plan

SITES = (A, B, C)
STATUS = jsonschema.Draft202012Validator(structural_schema(FederationRoundStatus))
HOSPITALS = make.hospitals()
PARENT = make.parent_model()
CHANCES = 120
LOOKS_TO_THE_END = 200


class CrashError(Exception):
    """The operator died."""


@dataclass
class World:
    """API server, store and Jobs, as far as a round can tell. Checks the rules on every change."""

    random: random.Random
    spec: FederationRoundSpec
    now: datetime = make.NOW
    status: FederationRoundStatus = field(default_factory=FederationRoundStatus)
    jobs: dict[str, JobView] = field(default_factory=dict)
    updates: dict[tuple[str, int], UpdateManifest | DamagedManifest] = field(default_factory=dict)
    results: dict[Role, JobResult] = field(default_factory=dict)
    models: dict[str, ModelManifest] = field(default_factory=dict)
    consenting: set[str] = field(default_factory=lambda: set(SITES))
    ledger: list[tuple[str, str]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    """Digests by order of creation; creating one that is there changes nothing."""

    # what the operator does

    def observe(self) -> Observed:
        active = {(job.site, job.attempt) for job in self.jobs.values() if job.outcome == "active"}
        return make.observed(
            hospitals={site: HOSPITALS[site] for site in sorted(self.consenting)},
            jobs=tuple(self.jobs.values()),
            updates={key: value for key, value in self.updates.items() if key not in active},
            results=dict(self.results),
            models=dict(self.models),
            parent=PARENT,
        )

    def look(self, crash_after: int | None = None) -> Plan:
        """Plan and carry out; the operator dies after so many actions."""
        view, seen = make.view(self.spec, self.status), self.observe()
        accepted = bool(self.status.sites)
        next_ = plan(view, seen, self.now)
        assert next_ == plan(view, seen, self.now), "the same inputs give the same plan"
        self.check_status(next_.status)
        refused: dict[str, str] = {}
        for item in next_.launches:
            if self.random.random() < 0.1:
                refused[item.reference.name] = "the hospital took the right away"
        written = without_refused(next_.status, refused, self.now)
        self.check_status(written)
        actions: list[tuple[Any, Any]] = [
            *((self.stop, item.name) for item in next_.stops),
            *((self.publish, item.spec.digest) for item in next_.publications),
            *((self.record, entry) for entry in next_.ledger),
            *((self.launch, item) for item in next_.launches if item.reference.name not in refused),
            (self.write, written),
        ]
        for number, (act, argument) in enumerate(actions):
            if number == crash_after:
                raise CrashError
            act(argument)
        if accepted:  # the first look only accepts; the next one launches
            self.check_quiet()
        return next_

    def stop(self, name: str) -> None:
        self.jobs.pop(name, None)

    def publish(self, digest: str) -> None:
        if digest not in self.published:
            self.published.append(digest)

    def record(self, entry: Any) -> None:
        item = (entry.hospital.site, entry.participation.update_digest)
        if item not in self.ledger:
            self.ledger.append(item)

    def launch(self, launch: Launch) -> None:
        name = launch.reference.name
        others = [job for job in self.jobs.values() if (job.role, job.site) == (launch.role, launch.site)]
        running = [job.name for job in others if job.outcome == "active" and job.name != name]
        assert not running, f"{launch.site or launch.role} has a second Job beside {running}"
        committed = [key for key, value in self.updates.items() if isinstance(value, UpdateManifest)]
        assert launch.site not in [site for site, _ in committed], f"the update of {launch.site} is redone"
        assert launch.role not in self.results, f"the result of {launch.role} is redone"
        assert name == make.job(launch.role, launch.site, launch.attempt).name
        self.jobs.setdefault(name, make.job(launch.role, launch.site, launch.attempt))

    def write(self, status: FederationRoundStatus) -> None:
        if ended(self.status):
            assert status == self.status, "a finished round stays as it is"
        self.status = FederationRoundStatus.model_validate(status.to_dict())

    # what is checked

    def check_status(self, status: FederationRoundStatus) -> None:
        if status != self.status:
            STATUS.validate(status.to_dict())
        for site in status.sites:
            assert site.failures <= self.spec.retries + 1
            if site.phase == "Succeeded":
                assert isinstance(self.updates[site.name, site.attempt], UpdateManifest)
        assert [site.name for site in status.sites] in ([], sorted(SITES))

    def check_quiet(self) -> None:
        """Planning again in an unchanged world changes nothing."""
        again = plan(make.view(self.spec, self.status), self.observe(), self.now)
        assert again.status.phase == self.status.phase
        assert (again.launches, again.ledger, again.publications, again.events) == ((), (), (), ())

    # what chance does

    def chance(self) -> None:
        """Something happens."""
        job = self.random.choice(sorted(self.jobs.values(), key=lambda item: item.name)) if self.jobs else None
        event = self.random.choice(["end", "end", "end", "delete", "consent", "suspend", "time", "time"])
        if event == "time":
            self.now += timedelta(seconds=self.random.choice([1, 5, 10, 60, 300]))
        elif event == "suspend":
            self.spec = self.spec.model_copy(update={"suspend": not self.spec.suspend})
        elif event == "consent":
            self.consenting ^= {self.random.choice(SITES)}
        elif job is not None and event == "end" and job.outcome == "active":
            self.end(job, self.random.choice(["done", "done", "failed", "permanent", "damaged", "nothing", "lost"]))
        elif job is not None and event == "delete" and self.known(job):
            del self.jobs[job.name]

    def known(self, job: JobView) -> bool:
        """Whether the status names the Job. Nobody can delete a Job in the moment between launch and status."""
        named = [item.job for item in (*self.status.sites, self.status.initialization, self.status.aggregation) if item]
        return job.name in named

    def end(self, job: JobView, how: str) -> None:
        code = {"failed": 1, "permanent": 65}.get(how)
        outcome: JobOutcome = "failed" if how in ("failed", "permanent", "lost") else "succeeded"
        self.jobs[job.name] = replace(job, outcome=outcome, exit_code=code)
        if how in ("done", "lost"):  # lost: the update is committed, then the Pod dies
            self.commit(job)
        elif how == "damaged" and job.role == "site":
            self.updates[job.site, job.attempt] = DamagedManifest("The manifest of the update is damaged.")

    def commit(self, job: JobView) -> None:
        if job.role == "site":
            self.updates[job.site, job.attempt] = make.update(job.site, job.attempt)
            return
        digest = make.PARENT if job.role == "init" else make.MODEL
        self.results[job.role] = JobResult(round_uid=make.UID, model_digest=digest)
        self.models[digest] = make.manifest(digest)


def ended(status: FederationRoundStatus) -> bool:
    return {"Complete", "Failed"} & {item.type for item in status.conditions if item.status == "True"} != set()


def play(seed: int) -> World:
    """Let chance and the operator act by turns, then let everything run to its end."""
    chance = random.Random(seed)
    changes = {"retries": chance.choice([0, 1, 2, 5]), "deadline": chance.choice(["60s", "30m"])}
    quorum = {"participants": {"quorum": chance.choice([1, 2, 3])}}
    make_spec = chance.choice([make.spec, make.init_spec])
    world = World(chance, make_spec(**quorum, **changes))
    for _ in range(CHANCES):
        crash = chance.choice([None, None, 0, 1, 2, 3])
        try:
            world.look(crash)
        except CrashError:
            continue
        finally:
            world.chance()
        if ended(world.status) and chance.random() < 0.2:
            break
    world.spec = world.spec.model_copy(update={"suspend": False})
    for _ in range(LOOKS_TO_THE_END):
        again = world.look().look_again
        if ended(world.status):
            break
        world.now += max(again or timedelta(minutes=5), timedelta(seconds=5))
        for job in [item for item in world.jobs.values() if item.outcome == "active"]:
            world.end(job, "done")
    return world


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_every_round_ends_and_no_rule_is_broken(seed: int) -> None:
    world = play(seed)
    assert ended(world.status)
    assert world.status.completion_time is not None
    assert not [job.name for job in world.jobs.values() if job.outcome == "active"], "a finished round left a Job"
    assert len(world.ledger) == len(set(world.ledger))
    if world.status.phase == "Complete":
        assert world.status.global_model is not None
        assert world.published[-1] == world.status.global_model.digest == make.MODEL
    for site in world.status.sites:
        assert (site.phase == "Succeeded") == ((site.name, site.update_digest) in world.ledger)


def test_the_simulation_reaches_both_ends() -> None:
    assert {play(seed).status.phase for seed in range(15)} == {"Complete", "Failed"}
