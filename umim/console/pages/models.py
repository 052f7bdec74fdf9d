"""The list of models, and one model with its card. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from umim.cli.card import Card, Known, card
from umim.cli.resources import Model
from umim.cli.words import size
from umim.console.cluster import Snapshot
from umim.console.lineage import Graph, family
from umim.console.pages.parts import Fact, Pager, newest_first, only, paged
from umim.console.words import count, figure, moment

CONTRIBUTORS = 100
"""Sites of one page of a model."""


@dataclass(frozen=True)
class ContributorRow:
    """A site whose update the model holds."""

    site: str
    href: str | None
    images: str
    share: str
    data: str
    privacy: str


@dataclass(frozen=True)
class ModelPage:
    """What the page of a model shows."""

    model: Model
    card: Card
    facts: Sequence[Fact]
    metrics: Sequence[tuple[str, str]]
    contributors: Pager[ContributorRow]
    graph: Graph
    round_href: str | None


def model_list(seen: Snapshot, query: Mapping[str, str]) -> Pager[Model]:
    """Return the list of models, newest first. Raises BadQueryError."""
    return paged(newest_first(seen.models), only(query, "page"), "/models")


def model_page(seen: Snapshot, model: Model, query: Mapping[str, str], now: datetime) -> ModelPage:
    """Return the page of a model. Raises BadQueryError."""
    spec = model.spec
    found = seen.round(model.namespace, spec.round.name)
    made_by = found if found is not None and found.raw["metadata"].get("uid") == spec.round.uid else None
    hospitals = {one.site: one for one in seen.hospitals}
    chain = _chain(model, seen)
    known = card(Known(chain=chain, round=made_by, hospitals=hospitals))
    rows = [_contributor(one, known["images"], hospitals) for one in known["contributors"]]
    return ModelPage(
        model=model,
        card=known,
        facts=_facts(model, now),
        metrics=[(name, figure(value)) for name, value in known["metrics"].items()],
        contributors=paged(rows, only(query, "page"), f"/models/{model.namespace}/{model.name}", size=CONTRIBUTORS),
        graph=family(model, seen.models),
        round_href=f"/rounds/{model.namespace}/{spec.round.name}" if made_by is not None else None,
    )


def _chain(model: Model, seen: Snapshot) -> list[Model]:
    """Return the model and its ancestors, newest first, as far as they are there with the digest that was recorded."""
    by_name = {one.name: one for one in seen.models if one.namespace == model.namespace}
    chain = [model]
    while (parent := chain[-1].spec.parent) is not None:
        found = by_name.get(parent.name)
        if found is None or found.spec.digest != parent.digest or found in chain:
            break
        chain.append(found)
    return chain


def _facts(model: Model, now: datetime) -> list[Fact]:
    spec = model.spec
    heads = ", ".join(f"{head.task_name} ({count(len(head.classes), 'class', 'classes')})" for head in spec.heads)
    return [
        Fact("Encoder", f"{spec.architecture} (timm), {spec.image_size} x {spec.image_size}"),
        Fact("Made by", f"{spec.strategy}, round {spec.round.name}"),
        Fact("Published", moment=moment(spec.created, now)),
        Fact("sha256", spec.digest, code=True),
        Fact("Object key", spec.object_key, code=True),
        Fact("Size", size(spec.size_bytes)),
        Fact("Shared heads", heads or "none"),
        Fact("Signature", f"key {spec.signature.key_id}" if spec.signature is not None else "none"),
    ]


def _contributor(one: Mapping[str, Any], images: int, hospitals: Mapping[str, Any]) -> ContributorRow:
    data, record = one["data"], one.get("differentialPrivacy")
    hospital = hospitals.get(one["site"])
    return ContributorRow(
        site=one["site"],
        href=f"/hospitals/{hospital.namespace}/{hospital.name}" if hospital is not None else None,
        images=f"{one['samples']:,}",
        share=f"{100 * one['samples'] / images:.0f} %",
        data="not known" if data is None else f"{data['format']}, {data['taskName'] or data['task']}",
        privacy=f"epsilon {figure(record['epsilon'])} at delta {figure(record['delta'])}"
        if record
        else "none recorded",
    )
