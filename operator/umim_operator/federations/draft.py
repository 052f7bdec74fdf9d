"""The plan of a campaign while it is being made. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from umim.api.base import shortened
from umim.api.federation import FederationSpec, StagePhase, StageRound, StageStatus
from umim.rounds.campaign import CampaignRound
from umim_operator import events
from umim_operator.conditions import ConditionType, Reason, set_condition
from umim_operator.draft import LONGEST_CONDITION_MESSAGE
from umim_operator.federations.state import FederationObserved, FederationPlan, FederationView, RoundCreation


class FederationDraft:
    """Collects what one call of the planner decides."""

    def __init__(self, view: FederationView, seen: FederationObserved, now: datetime) -> None:
        self.view = view
        self.seen = seen
        self.now = now
        self.status = view.status
        self.create: RoundCreation | None = None
        self.suspend_round: bool | None = None
        self._look_again: timedelta | None = None

    @property
    def spec(self) -> FederationSpec:
        """The spec of a Federation that parses; the planner has checked that."""
        if self.view.spec is None:
            raise ValueError(self.view.spec_error)
        return self.view.spec

    @property
    def rounds(self) -> list[StageRound]:
        """All rounds that have started, in their order."""
        return [one for stage in self.status.stages for one in stage.rounds]

    @property
    def started(self) -> int:
        """How many rounds have started."""
        return sum(len(stage.rounds) for stage in self.status.stages)

    @property
    def newest_complete(self) -> bool:
        """Whether the newest round has published its model, as far as the table of stages knows."""
        rounds = self.rounds
        return bool(rounds) and rounds[-1].global_model is not None

    def set(self, **fields: Any) -> None:
        """Change fields of the next status."""
        self.status = self.status.model_copy(update=fields)

    def condition(self, type_: ConditionType, value: bool, reason: Reason, message: str) -> None:
        """Set one condition of the next status."""
        text = shortened(message, LONGEST_CONDITION_MESSAGE)
        conditions = self.status.conditions
        self.set(conditions=set_condition(conditions, type_, value, reason, text, self.view.generation, self.now))

    def reject(self, reason: Reason, message: str) -> None:
        """Say why no round may start."""
        self.condition("Accepted", False, reason, message)
        self.set(reason=str(reason))

    def wait(self, delay: timedelta) -> None:
        """Look again after the delay."""
        self._look_again = delay

    def update_stages(self) -> None:
        """Bring the table of stages in line with the spec: stages that have not started may come, go and move."""
        known = {stage.name: stage.rounds for stage in self.status.stages}
        stages = [
            _stage(StageStatus(name=stage.name, rounds=known.get(stage.name, [])), stage.rounds)
            for stage in self.spec.stages
        ]
        self.set(stages=stages, stage=f"{self.status.frozen_stages}/{len(stages)}")

    def update_newest(self, current: CampaignRound, update: dict[str, object]) -> None:
        """Change the entry of the newest round."""
        rounds = self.status.stages[current.stage].rounds
        self._set_rounds(current.stage, [*rounds[:-1], rounds[-1].model_copy(update=update)])

    def start(self, current: CampaignRound) -> None:
        """Enter a round into the table and freeze its stage."""
        rounds = self.status.stages[current.stage].rounds
        self._set_rounds(current.stage, [*rounds, StageRound(name=current.name)])
        self.set(
            current_round=current.name,
            frozen_stages=current.stage + 1,
            stage=f"{current.stage + 1}/{len(self.spec.stages)}",
            start_time=self.status.start_time or self.now,
        )

    def complete(self, reason: Reason, message: str) -> None:
        """End the campaign with its last model."""
        self.condition("Complete", True, reason, message)
        self.condition("Failed", False, Reason.NOT_FAILED, "Nothing has failed.")
        self._finish("Complete", reason, "Complete")

    def fail(self, reason: Reason, message: str) -> None:
        """End the campaign because a round failed. What the rounds before it made stays."""
        self.condition("Failed", True, reason, message)
        self.condition("Complete", False, reason, message)
        self._finish("Failed", reason, "Failed")

    def _finish(self, phase: str, reason: Reason, last: StagePhase) -> None:
        ends: dict[str, StagePhase] = {"Running": last, "Pending": "Skipped"}
        stages = [
            stage.model_copy(update={"phase": ends.get(stage.phase, stage.phase)}) for stage in self.status.stages
        ]
        self.set(
            phase=phase,
            reason=str(reason),
            stages=stages,
            frozen_stages=len(stages),
            completion_time=self.now,
        )

    def _set_rounds(self, index: int, rounds: list[StageRound]) -> None:
        stages = list(self.status.stages)
        stages[index] = _stage(stages[index].model_copy(update={"rounds": rounds}), self.spec.stages[index].rounds)
        self.set(stages=stages)

    def finish(self) -> FederationPlan:
        """Return the plan."""
        old, new = self.view.status, self.status
        return FederationPlan(
            status=new,
            create=self.create,
            suspend=self.suspend_round,
            events=(*events.of_conditions(old.conditions, new.conditions), *events.of_stages(old.stages, new.stages)),
            look_again=self._look_again,
        )


def _stage(stage: StageStatus, rounds: int) -> StageStatus:
    """Return the stage with the phase that follows from its rounds. rounds: how many it is to have."""
    if not stage.rounds:
        phase: StagePhase = "Pending"
    elif len(stage.rounds) == rounds and stage.rounds[-1].global_model is not None:
        phase = "Complete"
    else:
        phase = "Running"
    return stage.model_copy(update={"phase": phase})
