"""``umim rounds``: list, describe and watch FederationRounds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from umim.cli import complete, options, render
from umim.cli.kube import Cluster
from umim.cli.output import Format, show_found, show_one, show_text
from umim.cli.resources import Round, without_bookkeeping
from umim.errors import UmimError

POLL_SECONDS = 1.0

Name = Annotated[str, typer.Argument(help="Name of the round.", autocompletion=complete.resources("federationrounds"))]

app = typer.Typer(no_args_is_help=True, help="Rounds of training.")


class RoundFailedError(UmimError):
    """The round that was watched has failed."""

    exit_code = 1


class WatchTimeoutError(UmimError):
    """The round that was watched did not finish in time. It goes on."""

    exit_code = 124  # as timeout(1)


@app.command("list")
def list_rounds(
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """List rounds with phase, sites, progress and model."""
    cluster = Cluster.connect(context)
    rounds = cluster.rounds(None if all_namespaces else namespace or cluster.namespace)
    show_found(rounds, render.rounds_table, output)


@app.command()
def describe(
    name: Name,
    namespace: options.Namespace = None,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Show a round with its conditions and sites."""
    cluster = Cluster.connect(context)
    found = cluster.round(namespace or cluster.namespace, name)
    show_one(found, render.round_detail, output)


@app.command()
def watch(
    name: Name,
    namespace: options.Namespace = None,
    timeout: Annotated[int, typer.Option(help="Give up after this many seconds. 0: never.", min=0)] = 0,
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Follow a round until it is complete (exit code 0) or has failed (1); 124 after --timeout.

    Bars in a terminal, one line a change otherwise. JSON: the object, on one line, at each change.
    """
    cluster = Cluster.connect(context)
    states = poll(cluster, namespace or cluster.namespace, name, timeout)
    last = follow_json(states) if output is Format.json else follow(states, Console(highlight=False))
    if last.status.phase == "Failed":
        raise RoundFailedError(f"round {last.namespace}/{last.name} failed: {last.message or last.status.reason}")
    if not last.finished:
        raise WatchTimeoutError(
            f"round {last.namespace}/{last.name} is still {last.status.phase} after {timeout} s; it goes on"
        )


def poll(cluster: Cluster, namespace: str, name: str, timeout_seconds: float) -> Iterator[Round]:
    """Yield the round about once a second until it is finished or the time is up (0: no limit)."""
    end = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
    while True:
        found = cluster.round(namespace, name)
        yield found
        if found.finished or time.monotonic() >= end:
            return
        time.sleep(POLL_SECONDS)


def follow(rounds: Iterator[Round], console: Console) -> Round:
    """Show each state of a round, live in a terminal, else one line a change; returns the last state."""
    if not console.is_terminal:
        return _follow_lines(rounds, console)
    last: Round | None = None
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        for last in rounds:
            live.update(render.progress_view(last, datetime.now(UTC)))
    assert last is not None  # poll yields at least once
    return last


def follow_json(rounds: Iterator[Round]) -> Round:
    """Print the object on one line whenever something happened; returns the last state."""
    return _follow_changes(rounds, lambda one: show_text(json.dumps(without_bookkeeping(one.raw))))


def _follow_lines(rounds: Iterator[Round], console: Console) -> Round:
    return _follow_changes(rounds, lambda one: console.print(render.progress_line(one), markup=False, soft_wrap=True))


def _follow_changes(rounds: Iterator[Round], show_one: Callable[[Round], None]) -> Round:
    shown, last = "", None
    for last in rounds:
        line = render.progress_line(last)
        if line != shown:
            show_one(last)
            sys.stdout.flush()
            shown = line
    assert last is not None  # poll yields at least once
    return last
