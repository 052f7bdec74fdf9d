"""From a Federation to its FederationRounds. Pure; the operator and the simulation share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from umim.api.federation import FederationSpec, StageSpec, StopEarlySpec
from umim.api.round import FederationRoundSpec, OptimisationSpec, ParentSpec

OVERRIDES = ("training", "resources", "aggregation", "distillation", "deadline", "retries")
"""Fields that a stage may set for itself."""
SEEDS = 2**31
"""Seeds are below this; behind the last one they start again at 0."""

SpecT = TypeVar("SpecT", bound=OptimisationSpec)


@dataclass(frozen=True)
class RoundNumber:
    """One round of a campaign."""

    number: int
    """Of the round in the campaign, from 0."""
    stage: int
    """Of its stage, from 0."""
    round: int
    """Of the round in its stage, from 0."""

    def name(self, federation: str, stage: StageSpec) -> str:
        """Return the name of the FederationRound, with numbers from 1; at most 200 characters, as names are limited."""
        return f"{federation}-s{self.stage + 1}-{stage.name}-r{self.round + 1}"


def round_numbers(spec: FederationSpec) -> list[RoundNumber]:
    """Return all rounds of a campaign in their order."""
    places = [(stage, round_) for stage, one in enumerate(spec.stages) for round_ in range(one.rounds)]
    return [RoundNumber(number, stage, round_) for number, (stage, round_) in enumerate(places)]


def round_spec(spec: FederationSpec, which: RoundNumber, parent: str | None) -> FederationRoundSpec:
    """Return the spec of one round. ``parent`` names the GlobalModel of the round before; None for the first round.

    Round number k adds k to the seeds of training and distillation: the same seed would repeat masks and orders.
    """
    stage = spec.stages[which.stage]
    own: dict[str, Any] = {name: getattr(stage, name) for name in OVERRIDES}
    fields = {name: getattr(spec, name) if value is None else value for name, value in own.items()}
    fields["training"] = _reseeded(fields["training"], which.number)
    if fields["distillation"] is not None:
        fields["distillation"] = _reseeded(fields["distillation"], which.number)
    model = spec.model
    if parent is not None:
        model = model.model_copy(update={"parent": ParentSpec(global_model=parent)})
    return FederationRoundSpec(
        model=model,
        pretraining=spec.pretraining if parent is None else None,
        server_dataset=spec.server_dataset,
        participants=stage.participants,
        **fields,
    )


def stops_early(rule: StopEarlySpec | None, losses: Sequence[float | None]) -> bool:
    """Say whether a campaign ends after these losses of its rounds, oldest first; None: not measured.

    It ends when the newest ``patience`` measured losses brought none that is below the best one before by more than
    ``minImprovement``.
    """
    if rule is None:
        return False
    best, waited = float("inf"), 0
    for loss in losses:
        if loss is None:
            continue
        if loss < best - rule.min_improvement:
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= rule.patience


def _reseeded(spec: SpecT, number: int) -> SpecT:
    return spec.model_copy(update={"seed": (spec.seed + number) % SEEDS})
