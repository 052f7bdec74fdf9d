"""A little world carries out the plans of a campaign, with crashes at any point: whatever chance does, these hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import jsonschema
import pytest

from tests.unit.operator import campaign, make
from umim.api.base import ModelReference
from umim.api.crd import structural_schema
from umim.api.federation import FederationSpec, FederationStatus
from umim.api.round import FederationRoundSpec, FederationRoundStatus
from umim_operator.federations.planner import plan, refused
from umim_operator.federations.state import FederationObserved, FederationPlan, RoundCreation, RoundSeen

STATUS = jsonschema.Draft202012Validator(structural_schema(FederationStatus))
CHANCES = 60
LOOKS_TO_THE_END = 120


class CrashError(Exception):
    """The operator died."""


@dataclass
class World:
    """API server and rounds, as far as a campaign can tell. Checks the rules on every change."""

    random: random.Random
    spec: FederationSpec
    now: datetime = make.NOW
    status: FederationStatus = field(default_factory=FederationStatus)
    rounds: dict[str, RoundSeen] = field(default_factory=dict)
    specs: dict[str, FederationRoundSpec] = field(default_factory=dict)
    models: dict[str, float | None] = field(default_factory=dict)
    """Loss by name of a published model."""
    edits: int = 0

    # what the operator does

    def observe(self) -> FederationObserved:
        seen = self.rounds.get(self.status.current_round or "")
        reference = seen.status.global_model if seen is not None else None
        loss = self.models.get(reference.name) if reference is not None else None
        return FederationObserved(seen, campaign.model() if loss is None else campaign.model(server_mim_loss=loss))

    def look(self, crash_after: int | None = None) -> FederationPlan:
        """Plan and carry out; the operator dies after so many actions."""
        view, seen = campaign.view(self.spec, self.status), self.observe()
        next_ = plan(view, seen, self.now)
        assert next_ == plan(view, seen, self.now), "the same inputs give the same plan"
        actions: list[tuple[Any, Any]] = [(self.write, next_.status)]
        if next_.create is not None and self.random.random() < 0.1:
            next_ = refused(next_, view, "exceeded quota", self.now)
            actions.append((self.write, next_.status))
        elif next_.create is not None:
            actions.append((self.create, next_.create))
        if next_.suspend is not None:
            actions.append((self.suspend, next_.suspend))
        for number, (act, argument) in enumerate(actions):
            if number == crash_after:
                raise CrashError
            act(argument)
        self.check_quiet()
        return next_

    def write(self, status: FederationStatus) -> None:
        if status != self.status:
            STATUS.validate(status.to_dict())
        if self.status.completion_time is not None:
            assert status == self.status, "a campaign that has ended stays as it is"
        assert status.frozen_stages >= self.status.frozen_stages
        assert status.lineage[: len(self.status.lineage)] == self.status.lineage, "nothing is taken out of the lineage"
        self.status = FederationStatus.model_validate(status.to_dict())

    def create(self, wanted: RoundCreation) -> None:
        assert not self.spec.suspend, "nothing starts while the campaign is suspended"
        assert wanted.name == self.status.current_round, "a round is on record before it exists"
        assert wanted.name not in self.rounds
        active = [name for name, seen in self.rounds.items() if seen.owned and not ended(seen)]
        assert not active, f"{active} still run"
        parent = self.status.global_model.name if self.status.global_model is not None else "base"
        assert wanted.spec.model.parent.global_model == parent
        stage = self.spec.stages[self.status.frozen_stages - 1]
        assert (wanted.stage, wanted.spec.participants) == (stage.name, stage.participants)
        if wanted.name in self.specs:
            assert wanted.spec == self.specs[wanted.name], "a round that is made again is the same"
        self.specs[wanted.name] = wanted.spec
        self.rounds[wanted.name] = RoundSeen(True, wanted.spec.suspend, FederationRoundStatus())

    def suspend(self, value: bool) -> None:
        assert self.status.current_round is not None
        seen = self.rounds[self.status.current_round]
        assert seen.owned
        assert value == self.spec.suspend
        self.rounds[self.status.current_round] = replace(seen, suspended=value)

    def check_quiet(self) -> None:
        """Planning again in an unchanged world changes nothing, but for a refused round that is tried again."""
        if self.status.reason == "RoundRefused":
            return
        again = plan(campaign.view(self.spec, self.status), self.observe(), self.now)
        assert again.status == self.status
        assert (again.create, again.suspend, again.events) == (None, None, ())

    # what chance does

    def chance(self) -> None:
        """Something happens."""
        event = self.random.choice(["end", "end", "train", "delete", "suspend", "edit", "thief", "time"])
        name = self.status.current_round or ""
        seen = self.rounds.get(name)
        if event == "time":
            self.now += timedelta(seconds=self.random.choice([1, 30, 300]))
        elif event == "suspend":
            self.spec = self.spec.model_copy(update={"suspend": not self.spec.suspend})
        elif event == "edit" and self.status.completion_time is None:
            self.edit()
        elif event == "thief" and seen is None and name:
            self.rounds[name] = campaign.running(owned=False)
        elif event == "train" and seen is not None and not ended(seen):
            self.rounds[name] = replace(campaign.running(), owned=seen.owned, suspended=seen.suspended)
        elif event == "delete" and seen is not None:
            del self.rounds[name]
        elif event == "end" and seen is not None and not ended(seen):
            self.end(name, seen)

    def edit(self) -> None:
        """Replace the stages that have not started, as the rules of the CRD let it."""
        kept = list(self.spec.stages[: self.status.frozen_stages])
        self.edits += 1
        new = [campaign.stage(f"n{self.edits}-{index}", self.random.choice([1, 2])) for index in range(3)]
        if self.random.random() < 0.2:
            new[-1]["aggregation"] = {"strategy": "guess"}
        stages = [stage.to_dict() for stage in kept] + new[: self.random.choice([0 if kept else 1, 1, 2, 3])]
        self.spec = FederationSpec.model_validate({**self.spec.to_dict(), "stages": stages})

    def end(self, name: str, seen: RoundSeen, lucky: bool = False) -> None:
        if not seen.owned:
            del self.rounds[name]
        elif not lucky and self.random.random() < 0.1:
            self.rounds[name] = replace(campaign.failed(), suspended=seen.suspended)
        else:
            parent = self.status.lineage[-1] if self.status.lineage else campaign.BASE
            self.rounds[name] = replace(campaign.complete(name, parent), suspended=seen.suspended)
            self.models[campaign.model_of(name).name] = self.random.choice([None, self.random.random()])


def ended(seen: RoundSeen) -> bool:
    return seen.status.phase in ("Complete", "Failed")


def play(seed: int) -> World:
    """Let chance and the operator act by turns, then let everything run to its end."""
    chance = random.Random(seed)
    changes: dict[str, Any] = {"serverDataset": {"claimName": "pool", "format": "npz"}}
    if chance.random() < 0.5:
        changes["stopEarly"] = {"patience": chance.choice([1, 2, 5]), "minImprovement": chance.choice([0.0, 0.1])}
    world = World(chance, campaign.spec(**changes))
    for _ in range(CHANCES):
        crash = chance.choice([None, None, 0, 1, 2])
        try:
            world.look(crash)
        except CrashError:
            continue
        finally:
            world.chance()
    if world.status.completion_time is None:
        sound = [stage for stage in world.spec.stages if stage.aggregation is None]
        world.spec = world.spec.model_copy(update={"suspend": False, "stages": sound or world.spec.stages[:1]})
    for _ in range(LOOKS_TO_THE_END):
        world.look()
        if world.status.completion_time is not None:
            break
        name = world.status.current_round or ""
        seen = world.rounds.get(name)
        if seen is not None and not ended(seen):
            world.end(name, seen, lucky=True)
    return world


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_every_campaign_ends_and_no_rule_is_broken(seed: int) -> None:
    world = play(seed)
    status = world.status
    assert status.completion_time is not None
    done = [one for stage in status.stages for one in stage.rounds if one.global_model is not None]
    models: list[ModelReference] = [one.global_model for one in done if one.global_model is not None]
    assert status.lineage == ([campaign.BASE, *models] if models else [])
    assert status.global_model == (models[-1] if models else None)
    assert {stage.phase for stage in status.stages} <= {"Complete", "Failed", "Skipped"}
    assert [stage.name for stage in status.stages] == [stage.name for stage in world.spec.stages]
    if status.reason == "AllStagesComplete":
        assert [len(stage.rounds) for stage in status.stages] == [stage.rounds for stage in world.spec.stages]


def test_the_simulation_reaches_every_end() -> None:
    assert {play(seed).status.reason for seed in range(40)} == {"AllStagesComplete", "StoppedEarly", "RoundFailed"}
