"""From a Federation to its rounds: which there are, what each does, when to stop. Pure; the simulation shares it.

A campaign is a list of rounds, numbered from 0 over all stages. Stages that have started are frozen, so the first k
rounds of the list never change once k rounds have started.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from umim.api.federation import FederationSpec, StopEarlySpec
from umim.api.round import FederationRoundSpec, OptimisationSpec, ParentSpec

SEEDS = 2**31
"""Seeds are below this; behind the last one they start again at 0."""

S = TypeVar("S", bound=OptimisationSpec)
T = TypeVar("T")


class CampaignRound(NamedTuple):
    """One round of a campaign."""

    number: int
    """Number of the round in the campaign, from 0."""
    name: str
    """Name of its FederationRound."""
    stage: int
    """Index of its stage in spec.stages."""


def campaign_rounds(federation: str, spec: FederationSpec) -> list[CampaignRound]:
    """Return all rounds of the campaign in their order.

    Names are ``<federation>-s<stage>-<stage's name>-r<round>``, both numbers from 1: at most 63 + 63 + 10 characters,
    within the 200 that a FederationRound may have.
    """
    names = [
        (f"{federation}-s{index + 1}-{stage.name}-r{number + 1}", index)
        for index, stage in enumerate(spec.stages)
        for number in range(stage.rounds)
    ]
    return [CampaignRound(number, name, index) for number, (name, index) in enumerate(names)]


def round_spec(spec: FederationSpec, which: CampaignRound, parent: str | None) -> FederationRoundSpec:
    """Return what one round does. parent: the GlobalModel of the round before; None for the first round.

    The same seed in every round would repeat data orders and masks: round k adds k to the seeds of training and
    distillation.
    """
    stage = spec.stages[which.stage]
    distillation = _own(stage.distillation, spec.distillation)
    model = spec.model if parent is None else spec.model.model_copy(update={"parent": ParentSpec(global_model=parent)})
    return FederationRoundSpec(
        model=model,
        pretraining=spec.pretraining if parent is None else None,
        participants=stage.participants,
        training=_seeded(_own(stage.training, spec.training), which.number),
        resources=_own(stage.resources, spec.resources),
        aggregation=_own(stage.aggregation, spec.aggregation),
        server_dataset=spec.server_dataset,
        distillation=None if distillation is None else _seeded(distillation, which.number),
        deadline=_own(stage.deadline, spec.deadline),
        retries=_own(stage.retries, spec.retries),
        queue_name=spec.queue_name,
        suspend=spec.suspend,
    )


def no_longer_better(rule: StopEarlySpec, losses: Sequence[float | None]) -> bool:
    """Say whether the campaign is to end. losses: of the rounds so far; a round without one does not count."""
    best, waited = float("inf"), 0
    for loss in losses:
        if loss is None:
            continue
        if loss < best - rule.min_improvement:
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= rule.patience


def _own(stage: T | None, federation: T) -> T:
    return federation if stage is None else stage


def _seeded(spec: S, number: int) -> S:
    return spec.model_copy(update={"seed": (spec.seed + number) % SEEDS})
