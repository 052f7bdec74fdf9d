"""What the shell offers at TAB: names of resources, namespaces, contexts. In time or nothing, and never an error."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import typer

from umim.cli.kube import Cluster, contexts

SECONDS = 2.0
"""Longest wait for an answer. Behind it a person types on."""

Names = Callable[[typer.Context, str], list[str]]


def resources(plural: str) -> Names:
    """Return a completion with the names of these resources in the namespace of the command line."""

    def found(ctx: typer.Context, incomplete: str) -> list[str]:
        return _in_time(lambda: _cluster(ctx).names(plural, ctx.params.get("namespace")), incomplete)

    return found


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a namespace."""
    return _in_time(lambda: _cluster(ctx).namespaces(), incomplete)


def kubeconfig_contexts(incomplete: str) -> list[str]:
    """Complete a context of the kubeconfig."""
    return _in_time(contexts, incomplete)


def _cluster(ctx: typer.Context) -> Cluster:
    return Cluster.connect(ctx.params.get("context"), retries=0)


def _in_time(ask: Callable[[], list[str]], incomplete: str) -> list[str]:
    """Return the names that ``ask`` finds and that begin so; none if it fails, or takes too long.

    The time holds for name servers and credential plugins, too, which no timeout of a request bounds.
    """
    found: list[str] = []

    def run() -> None:
        try:
            found.extend(name for name in ask() if name.startswith(incomplete))
        except Exception:  # noqa: BLE001 whatever it is, a word in the middle of a command line helps nobody
            return

    # Not waited for at the end of the process.
    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return list(found)
