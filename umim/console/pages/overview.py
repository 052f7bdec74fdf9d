"""The first page: what runs, what needs a person, what is new. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from umim.cli.resources import Federation, Model, Round
from umim.console.cluster import Snapshot
from umim.console.pages.parts import false, href, newest_first, refusal
from umim.console.pages.rounds import GROUPS, group
from umim.console.words import Moment, count, moment, state

MOST = 8
"""Rows of each list of the first page."""
TROUBLED = ("Refused", "Failed", "Excluded", "Backoff")


@dataclass(frozen=True)
class Tile:
    """How many rounds are in a group of phases."""

    title: str
    number: int
    shape: str
    href: str


@dataclass(frozen=True)
class Attention:
    """Something that a person should look at."""

    name: str
    href: str
    word: str
    shape: str
    sentence: str
    moment: Moment | None


@dataclass(frozen=True)
class Overview:
    """What the first page shows."""

    tiles: Sequence[Tile]
    attention: Sequence[Attention]
    attention_more: int
    active: Sequence[Round]
    active_more: int
    federations: Sequence[Federation]
    federations_more: int
    models: Sequence[Model]
    models_more: int
    sentence: str
    """The whole in one sentence."""


def overview(seen: Snapshot, now: datetime) -> Overview:
    """Return the first page."""
    rounds = newest_first(seen.rounds)
    groups = {name: [one for one in rounds if group(one) == name] for name in GROUPS}
    attention = [
        *(found for one in newest_first(seen.federations) if (found := _campaign(one, now)) is not None),
        *(found for one in rounds if (found := _round(one, now)) is not None),
    ]
    federations, models = newest_first(seen.federations), newest_first(seen.models)
    active = [*groups["running"], *groups["suspended"]]
    return Overview(
        tiles=[
            Tile(GROUPS[name].title, len(found), GROUPS[name].shape, f"/rounds?phase={name}")
            for name, found in groups.items()
        ],
        attention=attention[:MOST],
        attention_more=max(0, len(attention) - MOST),
        active=active[:MOST],
        active_more=max(0, len(active) - MOST),
        federations=federations[:MOST],
        federations_more=max(0, len(federations) - MOST),
        models=models[:MOST],
        models_more=max(0, len(models) - MOST),
        sentence=f"{count(len(groups['running']), 'round')} running, {count(len(attention), 'thing')} to look at, "
        f"{count(len(models), 'model')} published, {count(len(seen.hospitals), 'hospital')}.",
    )


def _campaign(one: Federation, now: datetime) -> Attention | None:
    refused = refusal(one.status.conditions)
    if refused is None and one.status.phase != "Failed":
        return None
    shown = state("Failed" if refused is None else "Refused")
    at = refused.last_transition_time if refused is not None else one.status.completion_time
    return Attention(f"Federation {one.name}", href(one), shown.word, shown.shape, one.message, moment(at, now))


def _round(one: Round, now: datetime) -> Attention | None:
    refused = refusal(one.status.conditions)
    if refused is not None or one.status.phase == "Failed":
        shown = state("Failed" if one.status.phase == "Failed" else "Refused")
        at = one.status.completion_time or (refused.last_transition_time if refused is not None else None)
        return Attention(f"Round {one.name}", href(one), shown.word, shown.shape, one.message, moment(at, now))
    if one.finished:
        return None
    if (stuck := false(one.status.conditions, "Reconciled")) is not None:
        since = moment(stuck.last_transition_time, now)
        return Attention(f"Round {one.name}", href(one), "Operator stuck", "warning", stuck.message, since)
    troubled = [site for site in one.status.sites if site.phase in TROUBLED]
    if not troubled:
        return None
    first = troubled[0]
    more = f" And {count(len(troubled) - 1, 'more site')}." if len(troubled) > 1 else ""
    shown = state(first.phase)
    why = (first.message or first.reason or shown.word).removesuffix(".")
    sentence = f"{first.name}: {why}.{more}"
    return Attention(f"Round {one.name}", href(one), shown.word, shown.shape, sentence, None)
