"""``umim federations``: list and describe campaigns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from umim.api.federation import StageStatus
from umim.cli import complete, options, render, words
from umim.cli.kube import Cluster
from umim.cli.output import Format, show_found, show_one
from umim.cli.resources import Federation

Name = Annotated[str, typer.Argument(help="Name of the Federation.", autocompletion=complete.resources("federations"))]

app = typer.Typer(no_args_is_help=True, help="Campaigns of rounds, stage by stage.")


@app.command("list")
def list_federations(
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """List campaigns with phase, stage, round and model."""
    cluster = Cluster.connect(context)
    found = cluster.federations(None if all_namespaces else namespace or cluster.namespace)
    show_found(found, federations_table, output)


@app.command()
def describe(
    name: Name,
    namespace: options.Namespace = None,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Show a campaign with its stages, rounds and lineage."""
    cluster = Cluster.connect(context)
    found = cluster.federation(namespace or cluster.namespace, name)
    show_one(found, federation_detail, output)


def federations_table(federations: Sequence[Federation], now: datetime) -> Table:
    """Return one row a campaign, with the columns of ``kubectl get fed``."""
    table = render.list_table("NAMESPACE", "NAME", "PHASE", "STAGE", "ROUND", "MODEL", "AGE")
    for one in federations:
        status = one.status
        table.add_row(
            Text(one.namespace),
            Text(one.name),
            render.phase(status.phase),
            Text(status.stage or words.NONE),
            Text(status.current_round or words.NONE),
            Text(status.global_model.name if status.global_model else words.NONE),
            Text(words.age(one.created, now)),
        )
    return table


def federation_detail(one: Federation, now: datetime) -> Group:
    """Return everything about a campaign: facts, conditions, stages, lineage."""
    model, status = one.spec.model, one.status
    parent = model.parent.global_model or f"start model by {model.parent.init}"
    facts = render.fact_table(
        ("Federation", Text(f"{one.namespace}/{one.name}")),
        ("Phase", render.phase(status.phase, status.reason)),
        ("", Text(one.message)),
        ("Model", Text(f"{model.architecture}, {model.image_size} x {model.image_size}, from {parent}")),
        ("Stage", Text(status.stage or words.NONE)),
        ("Started", Text(render.moment_text(status.start_time, now))),
        ("Finished", Text(render.moment_text(status.completion_time, now))),
        ("Global model", Text(render.model_reference(status.global_model))),
    )
    lineage = Text(" -> ".join(model.name for model in status.lineage) or words.NONE)
    conditions = render.conditions_table(status.conditions, now)
    return Group(facts, Text(), conditions, stages_table(status.stages), Text("LINEAGE", style="bold"), lineage)


def stages_table(stages: Sequence[StageStatus]) -> Table:
    """Return one row a round, and one for each stage that has none yet."""
    table = render.list_table("STAGE", "PHASE", "ROUND", "PHASE", "MODEL", "MIM LOSS")
    for stage in stages:
        head = [Text(stage.name), render.phase(stage.phase)]
        if not stage.rounds:
            table.add_row(*head, *[Text(words.NONE)] * 4)
        for number, one in enumerate(stage.rounds):
            table.add_row(
                *(head if number == 0 else [Text()] * 2),
                Text(one.name),
                render.phase(one.phase),
                Text(one.global_model.name if one.global_model else words.NONE),
                Text(words.NONE if one.server_mim_loss is None else f"{one.server_mim_loss:.4f}"),
            )
    return table
