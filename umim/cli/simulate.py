"""``umim simulate``: a federation in this process, without a cluster. torch is imported when it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from umim.api.base import ModelReference
from umim.api.round import FederationRoundStatus
from umim.artifacts.local import LocalStore
from umim.artifacts.manifests import manifest_bytes
from umim.cli import options, render, words
from umim.cli.output import Format, show_json, show_list, show_text
from umim.cli.resources import Round
from umim.errors import ConfigError, UmimError
from umim.simulation.claims import LocalClaims
from umim.simulation.parents import take_parent
from umim.simulation.resources import Campaign, Hospital, parse_documents
from umim.simulation.result import RoundOutcome, SimulationResult

if TYPE_CHECKING:
    from umim.simulation.round import SimulatedRound

RESULT_KEY = "result.json"


class SimulationFailedError(UmimError):
    """A round of the simulation has failed."""

    exit_code = 1


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        exists=True,
        dir_okay=False,
        help="YAML with one Federation or FederationRound, and the Hospitals that it names.",
    ),
]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for models and result.json. Go on: give it again.")]
Data = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder with the volumes, as DIR/<namespace>/<claim>."),
]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="NAMESPACE/CLAIM=PATH", help="Folder of one claim. May be given several times."),
]
Parents = Annotated[
    list[str] | None,
    typer.Option(
        "--parent",
        metavar="NAME=DIR",
        help="A model that model.parent.globalModel names: a folder with model.safetensors and manifest.json.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads. Default: as many CPUs as there are.")]


def simulate(
    files: Files,
    out: Out,
    data: Data = None,
    maps: Maps = None,
    parents: Parents = None,
    threads: Threads = None,
    output: options.Output = Format.table,
) -> None:
    """Run a federation in this process, without a cluster. Needs: pip install umim\\[cli,train].

    Trains, merges and distils by the code of the cluster's Jobs. A run that was interrupted goes on where it was.
    """
    campaign, hospitals = read_files(files)
    claims = LocalClaims(data, {_claim(text): path for text, path in map(_pair, maps or [])})
    store = LocalStore(out)
    known = {name: take_parent(store, name, path) for name, path in map(_pair, parents or [])}
    result = _run(campaign, hospitals, claims, store, out / "work", known, threads)
    store.put(RESULT_KEY, manifest_bytes(result))
    _show(result, out, output)
    if result.phase == "Failed":
        raise SimulationFailedError(f"{result.message} What is done is kept in {out}: the same command goes on")


def read_files(files: Sequence[Path]) -> tuple[Campaign, list[Hospital]]:
    """Return the one campaign of the files and their hospitals. Raises ConfigError naming file and document."""
    campaigns: list[Campaign] = []
    hospitals: list[Hospital] = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_bytes()))
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
        found = parse_documents(documents, str(file))
        campaigns += found[0]
        hospitals += found[1]
    if len(campaigns) != 1:
        names = ", ".join(f"{one.kind} {one.namespace}/{one.name}" for one in campaigns) or "none"
        raise ConfigError(f"one Federation or FederationRound is simulated at a time. Given are: {names}")
    return campaigns[0], hospitals


def rounds_table(rounds: Sequence[RoundOutcome]) -> Table:
    """Return one row a round."""
    table = render.list_table("STAGE", "ROUND", "PHASE", "SITES", "LOSS", "CHANGE", "SERVER MIM", "MODEL", "TIME")
    for one in rounds:
        sites = one.status.sites
        done = sum(site.phase == "Succeeded" for site in sites)
        metrics = one.models[-1].spec.metrics if one.status.global_model else {}
        before, after, change = words.loss_change(metrics)
        mim = one.server_mim_loss
        table.add_row(
            Text(one.stage or words.NONE),
            Text(one.name),
            render.phase(one.status.phase),
            Text(f"{done}/{len(sites)}"),
            Text(f"{before} -> {after}" if metrics else words.NONE),
            Text(change),
            Text(words.NONE if mim is None else f"{mim:.4f}"),
            Text(one.status.global_model.name if one.status.global_model else words.NONE),
            Text(f"{one.seconds:.1f} s"),
        )
    return table


def _show(result: SimulationResult, out: Path, output: Format) -> None:
    path = str(out / result.model_key) if result.models else None
    if output is Format.json:
        show_json(result.to_dict() | {"modelPath": path})
        return
    show_list(rounds_table(result.rounds))
    sites = [site for one in result.rounds for site in one.status.sites if site.phase != "Succeeded"]
    left_out = {(site.name, site.message): site for site in sites}
    if left_out:
        show_list(render.sites_table(list(left_out.values())))
    show_text("lineage: " + " -> ".join(model.name for model in result.models))
    show_text(f"result:  {out / RESULT_KEY}")
    if path is not None:
        show_text(f"model:   {path}\n\nJudge it: umim evaluate {path} --data FILE.npz")


def _run(
    campaign: Campaign,
    hospitals: Sequence[Hospital],
    claims: LocalClaims,
    store: LocalStore,
    work: Path,
    parents: dict[str, ModelReference],
    threads: int | None,
) -> SimulationResult:
    try:
        from umim.simulation.run import simulate as run
        from umim.training.runtime import start_runtime, thread_count
        from umim.training.site import Surroundings
    except ModuleNotFoundError as error:
        raise ConfigError(f"umim simulate needs {error.name}: pip install umim[cli,train]") from error
    around = Surroundings(start_runtime(threads or thread_count(os.environ)), lambda _progress: None)
    with _screen(len(campaign.rounds)) as screen:
        return run(campaign, hospitals, claims, store, work, around, parents=parents, watch=screen.show)


class _Screen:
    """Shows the round that runs, on standard error: bars in a terminal, one line a change otherwise."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._begun = datetime.now(UTC)
        self._started: dict[str, datetime] = {}
        self._shown = ""
        self._state: Round | None = None

    def show(self, which: SimulatedRound, status: FederationRoundStatus) -> None:
        """Take the new state of a round."""
        created = self._started.setdefault(which.name, datetime.now(UTC))
        self._state = Round(which.namespace, which.name, created, which.valid_spec, status, {})
        line = f"[{len(self._started)}/{self._rounds}] {render.progress_line(self._state)}"
        if not self._console.is_terminal and line != self._shown:
            self._shown = line
            self._console.print(line, markup=False, soft_wrap=True)

    def picture(self) -> RenderableType:
        """Return the bars as they are now. Called several times a second, so that the time passes on the screen."""
        if self._state is None:
            return Text("looking at the data", style="dim")
        now = datetime.now(UTC)
        head = f"round {len(self._started)} of {self._rounds}, {words.age(self._begun, now)} in all"
        return Group(Text(head, style="dim"), render.progress_view(self._state, now))


@contextmanager
def _screen(rounds: int) -> Iterator[_Screen]:
    screen = _Screen(console := Console(stderr=True, highlight=False), rounds)
    if not console.is_terminal:
        yield screen
        return
    with Live(console=console, get_renderable=screen.picture, refresh_per_second=4, transient=True):
        yield screen


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise typer.BadParameter(f"{text!r}; allowed is NAME=PATH, for a claim NAMESPACE/CLAIM=PATH")
    return name, Path(path)


def _claim(text: str) -> tuple[str, str]:
    namespace, slash, claim = text.partition("/")
    if not (namespace and slash and claim):
        raise typer.BadParameter(f"{text!r}; allowed is NAMESPACE/CLAIM=PATH", param_hint="--map")
    return namespace, claim
