"""The list of hospitals, and what one allows. Nothing of its data but the kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from umim.api.hospital import HospitalSpec, Participation
from umim.cli.resources import Hospital
from umim.cli.words import size
from umim.console.cluster import Snapshot
from umim.console.pages.parts import Fact, Pager, only, paged
from umim.console.words import Moment, figure, moment, window

ARTIFACTS = {
    "update": "model updates, with the number of images",
    "metrics": "figures of training and validation",
    "head": "the task head, with the names of its classes",
}
LEDGER = 20
"""Updates that are shown, of the newest 100 that the status holds."""


@dataclass(frozen=True)
class LedgerRow:
    """An update that left."""

    entry: Participation
    moment: Moment | None
    href: str | None
    size: str


@dataclass(frozen=True)
class HospitalPage:
    """What the page of a hospital shows."""

    hospital: Hospital
    facts: Sequence[Fact]
    leaves: Sequence[str]
    stays: Sequence[str]
    limits: Sequence[Fact]
    privacy: Sequence[Fact]
    ledger: Sequence[LedgerRow]
    ledger_more: int


def hospital_list(seen: Snapshot, query: Mapping[str, str]) -> Pager[Hospital]:
    """Return the list of hospitals, by namespace and name. Raises BadQueryError."""
    return paged(seen.hospitals, only(query, "page"), "/hospitals")


def hospital_page(seen: Snapshot, one: Hospital, now: datetime) -> HospitalPage:
    """Return the page of a hospital."""
    spec, status = one.spec, one.status
    allowed = spec.privacy.allowed_artifacts
    newest = list(reversed(status.ledger))
    rounds = {f"{found.namespace}/{found.name}" for found in seen.rounds}
    return HospitalPage(
        hospital=one,
        facts=_facts(one, now),
        leaves=[ARTIFACTS[kind] for kind in ARTIFACTS if kind in allowed],
        stays=["images and labels, always", *(text for kind, text in ARTIFACTS.items() if kind not in allowed)],
        limits=_limits(spec),
        privacy=_privacy(one),
        ledger=[
            LedgerRow(
                entry,
                moment(entry.time, now),
                f"/rounds/{entry.round}" if entry.round in rounds else None,
                size(entry.size_bytes + (entry.head_size_bytes or 0)),
            )
            for entry in newest[:LEDGER]
        ],
        ledger_more=max(0, status.participations - len(newest[:LEDGER])),
    )


def _facts(one: Hospital, now: datetime) -> list[Fact]:
    spec, status = one.spec, one.status
    last = status.last_participation
    return [
        Fact("Takes part in", ", ".join(spec.federations) or "nothing: it refuses all federations"),
        Fact("Kind of data", f"{spec.data.format}, {spec.data.task}"),
        Fact("Task", spec.data.task_name or "not named: its head is never shared"),
        Fact("Updates that left", f"{status.participations:,}"),
        *([Fact("Last one", moment=moment(last.time, now))] if last is not None else []),
        Fact("Signs its updates", "yes" if spec.public_key is not None else "no"),
    ]


def _limits(spec: HospitalSpec) -> list[Fact]:
    resources = ", ".join(f"{name} {amount}" for name, amount in sorted(spec.max_resources.items()))
    return [
        Fact("Resources", resources or "no bound but the namespace's quota"),
        Fact("Encoders", ", ".join(spec.architectures or ()) or "any"),
        Fact("Epochs", f"at most {spec.max_epochs}" if spec.max_epochs is not None else "no bound"),
        Fact("When", "; ".join(window(found) for found in spec.time_windows or ()) or "at any time"),
        Fact("Patients", f"at least {spec.privacy.min_patients}"),
    ]


def _privacy(one: Hospital) -> list[Fact]:
    privacy, floor = one.spec.privacy, one.spec.privacy.differential_privacy
    clipped = f"to norm {figure(privacy.clip_norm)}" if privacy.clip_norm is not None else "no"
    noise = f"{figure(privacy.noise_multiplier)} times the clipping norm" if privacy.noise_multiplier else "none"
    facts = [Fact("Update clipped", clipped), Fact("Noise on the update", noise)]
    if floor is None:
        return [*facts, Fact("Differential privacy", "as the round says")]
    facts.append(
        Fact(
            "Differential privacy",
            f"demanded: noise multiplier at least {figure(floor.min_noise_multiplier)}, gradients clipped to "
            f"{figure(floor.max_grad_norm)}",
        )
    )
    if floor.epsilon_budget is not None:
        spent = one.status.epsilon_spent
        told = f"{figure(spent)} spent" if spent is not None else "what is spent is not told"
        budget = f"{figure(floor.epsilon_budget)} at delta {figure(floor.delta)}; {told}"
        facts.append(Fact("Budget of epsilon", budget))
    return facts


def headline(one: Hospital) -> str:
    """Return what a hospital offers, for the list."""
    return f"{one.spec.data.format}, {one.spec.data.task_name or one.spec.data.task}"
