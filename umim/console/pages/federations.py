"""The list of campaigns, and one campaign. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from umim.api.base import Condition
from umim.api.federation import StageRound, StageSpec
from umim.cli.resources import Federation
from umim.console.charts import Chart, Series, line_chart
from umim.console.cluster import Snapshot
from umim.console.lineage import Graph, campaign
from umim.console.pages.parts import Fact, Pager, newest_first, only, paged
from umim.console.words import State, count, figure, moment, state

FIGURES = {
    "loss_before": "loss before the training, mean of the sites",
    "loss_after": "loss after the training, mean of the sites",
    "server_mim_loss": "MIM loss on the server's images",
}
"""Figures of the models that are drawn over the rounds."""


@dataclass(frozen=True)
class StageRow:
    """A stage."""

    name: str
    number: int
    state: State
    sites: str
    rounds: str
    percent: int


@dataclass(frozen=True)
class RoundRow:
    """A round of a stage."""

    stage: str
    round: StageRound
    state: State
    href: str | None
    model_href: str | None
    loss: str


@dataclass(frozen=True)
class FederationPage:
    """What the page of a campaign shows."""

    federation: Federation
    state: State
    sentence: str
    facts: Sequence[Fact]
    stages: Sequence[StageRow]
    rounds: Pager[RoundRow]
    graph: Graph | None
    chart: Chart | None
    conditions: Sequence[Condition]


def federation_list(seen: Snapshot, query: Mapping[str, str]) -> Pager[Federation]:
    """Return the list of campaigns, newest first. Raises BadQueryError."""
    return paged(newest_first(seen.federations), only(query, "page"), "/federations")


def federation_page(seen: Snapshot, one: Federation, query: Mapping[str, str], now: datetime) -> FederationPage:
    """Return the page of a campaign. Raises BadQueryError."""
    status = one.status
    started = [(stage.name, found) for stage in status.stages for found in stage.rounds]
    rows = [_round_row(seen, one, stage, found) for stage, found in reversed(started)]
    return FederationPage(
        federation=one,
        state=state(status.phase),
        sentence=one.message,
        facts=_facts(one, now),
        stages=_stages(one),
        rounds=paged(rows, only(query, "page"), f"/federations/{one.namespace}/{one.name}"),
        graph=campaign(status.lineage, seen.models, one.namespace) if status.lineage else None,
        chart=_chart(seen, one),
        conditions=status.conditions,
    )


def _facts(one: Federation, now: datetime) -> list[Fact]:
    spec, status = one.spec, one.status
    facts = [
        Fact("Stages", f"{count(len(spec.stages), 'stage')}, {count(sum(s.rounds for s in spec.stages), 'round')}"),
        Fact("Encoder", f"{spec.model.architecture}, {spec.model.image_size} x {spec.model.image_size}"),
        Fact("Training", f"{spec.training.objective}, {count(spec.training.epochs, 'epoch')}"),
        Fact("Aggregation", spec.aggregation.strategy),
        Fact("Created", moment=moment(one.created, now)),
    ]
    if spec.stop_early is not None:
        rule = f"after {count(spec.stop_early.patience, 'round')} without a better {spec.stop_early.metric}"
        facts.append(Fact("Stops early", rule))
    if status.global_model is not None:
        name = status.global_model.name
        facts.insert(0, Fact("Newest model", name, f"/models/{one.namespace}/{name}"))
    if status.start_time is not None:
        facts.append(Fact("Started", moment=moment(status.start_time, now)))
    if status.completion_time is not None:
        facts.append(Fact("Ended", moment=moment(status.completion_time, now)))
    return facts


def _stages(one: Federation) -> list[StageRow]:
    known = {stage.name: stage for stage in one.status.stages}
    rows = []
    for number, spec in enumerate(one.spec.stages, start=1):
        stage = known.get(spec.name)
        published = sum(found.global_model is not None for found in stage.rounds) if stage is not None else 0
        rows.append(
            StageRow(
                name=spec.name,
                number=number,
                state=state(stage.phase if stage is not None else "Pending"),
                sites=_participants(spec),
                rounds=f"{published} of {count(spec.rounds, 'round')}",
                percent=min(100, 100 * published // spec.rounds),
            )
        )
    return rows


def _participants(spec: StageSpec) -> str:
    who = spec.participants
    if who.hospitals is not None:
        return f"{count(len(who.hospitals), 'hospital')}, quorum {who.quorum}"
    labels = ", ".join(f"{key}={value}" for key, value in who.selector.match_labels.items()) if who.selector else ""
    return f"hospitals with {labels}, quorum {who.quorum}"


def _round_row(seen: Snapshot, one: Federation, stage: str, found: StageRound) -> RoundRow:
    here = seen.round(one.namespace, found.name)
    model = seen.model(one.namespace, found.global_model.name) if found.global_model is not None else None
    return RoundRow(
        stage=stage,
        round=found,
        state=state(found.phase),
        href=f"/rounds/{one.namespace}/{found.name}" if here is not None else None,
        model_href=f"/models/{one.namespace}/{model.name}" if model is not None else None,
        loss=figure(model.spec.metrics.get("loss_after")) if model is not None else "–",
    )


def _chart(seen: Snapshot, one: Federation) -> Chart | None:
    """Return the figures of the campaign's models over its rounds, numbered from 1."""
    found = [found.global_model for stage in one.status.stages for found in stage.rounds]
    models = [seen.model(one.namespace, reference.name) if reference is not None else None for reference in found]
    series = []
    for name, title in FIGURES.items():
        points = [
            (float(number), model.spec.metrics[name])
            for number, model in enumerate(models, start=1)
            if model is not None and name in model.spec.metrics
        ]
        series.append(Series(title, tuple(points)))
    return line_chart("How the models do", "round of the campaign", "loss", series)
