"""``umim hospitals``: list and describe what hospitals offer, to whom, and what has left them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from umim.cli import complete, options, render, words
from umim.cli.kube import Cluster
from umim.cli.output import Format, show_found, show_one
from umim.cli.resources import Hospital

Name = Annotated[str, typer.Argument(help="Name of the Hospital.", autocompletion=complete.resources("hospitals"))]

app = typer.Typer(no_args_is_help=True, help="Hospitals: consent, data, privacy floor, and what has left.")

SHOWN = frozenset({"federations", "data", "workClaimName", "serviceAccountName", "maxResources", "privacy"})
"""Fields of the spec that have a line of their own; every other one is shown as it is."""


@app.command("list")
def list_hospitals(
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """List hospitals with consent, data and the newest update that left."""
    cluster = Cluster.connect(context)
    found = cluster.hospitals(None if all_namespaces else namespace or cluster.namespace)
    show_found(found, hospitals_table, output)


@app.command()
def describe(
    name: Name,
    namespace: options.Namespace = None,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Show a hospital with its terms and the ledger of what has left it."""
    cluster = Cluster.connect(context)
    found = cluster.hospital(namespace or cluster.namespace, name)
    show_one(found, hospital_detail, output)


def hospitals_table(hospitals: Sequence[Hospital], now: datetime) -> Table:
    """Return one row a hospital, with the columns of ``kubectl get hospitals``."""
    table = render.list_table("NAMESPACE", "NAME", "FEDERATIONS", "FORMAT", "TASK", "UPDATES", "LAST ROUND", "AGE")
    for one in hospitals:
        last = one.status.last_participation
        table.add_row(
            Text(one.namespace),
            Text(one.name),
            Text(", ".join(one.spec.federations) or words.NONE),
            Text(one.spec.data.format),
            Text(one.spec.data.task_name or one.spec.data.task),
            Text(str(one.status.participations)),
            Text(last.round if last else words.NONE),
            Text(words.age(one.created, now)),
        )
    return table


def hospital_detail(one: Hospital, now: datetime) -> Group:
    """Return everything about a hospital: terms, privacy floor, ledger."""
    spec, data, privacy = one.spec, one.spec.data, one.spec.privacy
    noise = f", noise {privacy.noise_multiplier:g} of it" if privacy.noise_multiplier else ", no noise"
    clipping = "not clipped" if privacy.clip_norm is None else f"clipped to {privacy.clip_norm:g}{noise}"
    shown_floor = {"allowedArtifacts", "clipNorm", "noiseMultiplier", "minPatients"}
    facts = render.fact_table(
        ("Hospital", Text(f"{one.namespace}/{one.name}")),
        ("Trains for", Text(", ".join(spec.federations) or "nobody: spec.federations is empty")),
        ("Data", Text(f"{data.format}, {data.task}, volume {data.claim_name}{f', {data.path}' if data.path else ''}")),
        ("Task name", Text(data.task_name or "none: its head is never shared")),
        ("Labels", Text(data.labels_file or words.NONE)),
        ("Checkpoints", Text(f"volume {spec.work_claim_name}")),
        ("Account", Text(spec.service_account_name)),
        (
            "At most",
            Text(", ".join(f"{key} {value}" for key, value in sorted(spec.max_resources.items())) or "the quota"),
        ),
        ("May leave", Text(", ".join(privacy.allowed_artifacts))),
        ("Updates are", Text(clipping)),
        ("Patients", Text(f"at least {privacy.min_patients}")),
        *_further(one.raw["spec"].get("privacy", {}), shown_floor),
        *_further(one.raw["spec"], SHOWN),
        ("Updates left", Text(str(one.status.participations))),
        *_further(one.raw.get("status", {}), {"observedGeneration", "participations", "lastParticipation", "ledger"}),
    )
    return Group(facts, Text(), ledger_table(one, now))


def ledger_table(one: Hospital, now: datetime) -> Table:
    """Return one row an update that left, newest first."""
    table = render.list_table("UPDATE", "ROUND", "IMAGES", "SIZE", "HEAD", "LEFT")
    for part in reversed(one.status.ledger):
        table.add_row(
            Text(words.short(part.update_digest)),
            Text(part.round),
            Text(str(part.samples)),
            Text(words.size(part.size_bytes)),
            Text(words.short(part.head_digest)),
            Text(f"{words.age(part.time, now)} ago"),
        )
    return table


def _further(part: Any, shown: frozenset[str] | set[str]) -> list[tuple[str, Text]]:
    """Return a line for each field that has none of its own: a hospital's term must never be hidden."""
    return [
        (name, Text(value if isinstance(value, str) else json.dumps(value)))
        for name, value in part.items()
        if name not in shown
    ]
