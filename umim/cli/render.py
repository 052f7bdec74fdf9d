"""What the command line tool shows, as rich renderables. Pure: the time comes in as an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from umim.api.artifacts import ModelManifest
from umim.api.base import Condition, ModelReference
from umim.api.round import JobStatus, Progress, SiteStatus
from umim.cli.resources import Model, Round
from umim.cli.words import NONE, age, loss_change, short, short_duration, size

PHASE_STYLES = {
    "Complete": "bold green",
    "Succeeded": "green",
    "Failed": "bold red",
    "Refused": "red",
    "Excluded": "red",
    "Late": "yellow",
    "Skipped": "dim",
    "Backoff": "yellow",
    "Suspended": "yellow",
    "Queued": "yellow",
    "Running": "cyan",
    "Training": "cyan",
    "Initializing": "cyan",
    "Aggregating": "cyan",
}
BAR_WIDTH = 24


def rounds_table(rounds: Sequence[Round], now: datetime) -> Table:
    """Return one row a round, with the columns of ``kubectl get fround``."""
    table = list_table("NAMESPACE", "NAME", "PHASE", "SITES", "PROGRESS", "MODEL", "AGE")
    for one in rounds:
        status = one.status
        table.add_row(
            Text(one.namespace),
            Text(one.name),
            phase(status.phase),
            Text(status.sites_summary or NONE),
            Text(status.progress or NONE),
            Text(status.global_model.name if status.global_model else NONE),
            Text(age(one.created, now)),
        )
    return table


def round_detail(one: Round, now: datetime) -> Group:
    """Return everything about a round: facts, conditions, sites."""
    spec, status = one.spec, one.status
    parent = spec.model.parent.global_model or f"start model by {spec.model.parent.init}"
    facts = fact_table(
        ("Round", Text(f"{one.namespace}/{one.name}")),
        ("Phase", phase(status.phase, status.reason)),
        ("", Text(one.message)),
        ("Model", Text(f"{spec.model.architecture}, {spec.model.image_size} x {spec.model.image_size}, from {parent}")),
        (
            "Training",
            Text(f"{spec.training.objective}, {spec.training.epochs} epochs, batch {spec.training.batch_size}"),
        ),
        ("Aggregation", Text(f"{spec.aggregation.strategy}, quorum {spec.participants.quorum}")),
        ("Deadline", Text(spec.deadline)),
        ("Started", Text(moment_text(status.start_time, now))),
        ("Finished", Text(moment_text(status.completion_time, now))),
        ("Initialization", _job_state(status.initialization)),
        ("Start model", Text(model_reference(status.parent))),
        ("Server step", _job_state(status.aggregation)),
        ("Global model", Text(model_reference(status.global_model))),
    )
    return Group(facts, Text(), conditions_table(status.conditions, now), sites_table(status.sites))


def conditions_table(conditions: Sequence[Condition], now: datetime) -> Table:
    """Return one row a condition."""
    table = list_table("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
    for one in conditions:
        since = age(one.last_transition_time, now)
        table.add_row(Text(one.type), Text(one.status), Text(one.reason), Text(since), Text(one.message))
    return table


def sites_table(sites: Sequence[SiteStatus]) -> Table:
    """Return one row a site: phase, samples, loss on its own validation part before and after, message."""
    table = list_table("SITE", "PHASE", "ATTEMPT", "SAMPLES", "LOSS", "CHANGE")
    for column in table.columns[3:]:
        column.justify = "right"
    messages = any(site.message for site in sites)
    if messages:
        table.add_column("MESSAGE", overflow="fold")
    for site in sites:
        before, after, change = loss_change(site.metrics)
        table.add_row(
            Text(site.name),
            phase(site.phase),
            Text(str(site.attempt)),
            Text(NONE if site.samples is None else str(site.samples)),
            Text(NONE if site.metrics is None else f"{before} -> {after}"),
            Text(change),
            *([Text(site.message or "")] if messages else []),
        )
    return table


def progress_view(one: Round, now: datetime) -> Group:
    """Return a live picture of a round: its phase, one bar a site, and the server's Jobs."""
    status = one.status
    elapsed = short_duration((status.completion_time or now) - one.created)
    title = Text.assemble(f"{one.namespace}/{one.name}  ", phase(status.phase, status.reason), f"  {elapsed}")
    if (rest := time_left(one)) is not None:
        title.append(f"  {short_duration(rest)} of training left")
    grid = Table.grid(padding=(0, 2))
    if status.initialization is not None:
        _add_job(grid, "start model", status.initialization)
    for site in status.sites:
        _add_site(grid, site)
    if status.aggregation is not None:
        _add_job(grid, "aggregation", status.aggregation)
    message = [Text(one.message, style="red" if status.phase == "Failed" else "dim")] if one.message else []
    return Group(title, Padding(grid, (0, 2)), *message)


def time_left(one: Round) -> timedelta | None:
    """Return how long the slowest site still trains, or None when that is not known of every site that runs."""
    running = [site for site in one.status.sites if site.phase == "Running"]
    known = [site.progress.eta_seconds for site in running if site.progress is not None]
    return timedelta(seconds=max(known)) if known and len(known) == len(running) else None


def progress_line(one: Round) -> str:
    """Return the state of a round in one line, for output that is no terminal; changes when something happened."""
    status = one.status
    sites = ", ".join(
        f"{site.name} {site.phase}" + (f" {site.progress.percent} %" if site.progress else "") for site in status.sites
    )
    server = {"Initializing": status.initialization, "Aggregating": status.aggregation}.get(status.phase)
    done = f" {server.progress.percent} %" if server is not None and server.progress is not None else ""
    return f"{one.namespace}/{one.name} {status.phase}{done}" + (f": {sites}" if sites else "")


def models_table(models: Sequence[Model], now: datetime) -> Table:
    """Return one row a model."""
    table = list_table("NAMESPACE", "NAME", "DIGEST", "ARCHITECTURE", "STRATEGY", "SITES", "SIZE", "AGE")
    for one in models:
        spec = one.spec
        table.add_row(
            Text(one.namespace),
            Text(one.name),
            Text(short(spec.digest)),
            Text(f"{spec.architecture}@{spec.image_size}"),
            Text(spec.strategy),
            Text(str(len(spec.contributors)) if spec.contributors else NONE),
            Text(size(spec.size_bytes)),
            Text(age(one.created, now)),
        )
    return table


def lineage_tree(chain: Sequence[Model]) -> Tree:
    """Return the models from a start model down to the newest, each with what went in. ``chain`` is newest first."""
    oldest_first = list(reversed(chain))
    root = node = Tree(_lineage_entry(oldest_first[0]))
    for model in oldest_first[1:]:
        node = node.add(_lineage_entry(model))
    return root


def model_facts(model: Model) -> Table:
    """Return what a person wants to know of a published model."""
    spec = model.spec
    made_by = f"round {spec.round.name} by {spec.strategy}"
    return fact_table(
        ("Global model", Text(f"{model.namespace}/{model.name}")),
        ("Digest", Text(f"sha256:{spec.digest}")),
        ("Object key", Text(spec.object_key)),
        ("Size", Text(size(spec.size_bytes))),
        ("Architecture", Text(f"{spec.architecture}, {spec.image_size} x {spec.image_size}")),
        ("Made by", Text(made_by)),
        ("Parts", Text(f"sha256:{spec.parts_digest}" if spec.parts_digest else NONE)),
        ("Heads", Text(", ".join(f"{head.task_name} ({len(head.classes)} classes)" for head in spec.heads) or NONE)),
        ("Metrics", Text(", ".join(f"{key} {value:.4f}" for key, value in sorted(spec.metrics.items())) or NONE)),
    )


def pulled(folder: str, manifest: ModelManifest, fetched: bool) -> Table:
    """Return what ``umim models pull`` has written."""
    how = "fetched and verified" if fetched else "already there, verified"
    return fact_table(
        ("Model", Text(f"{folder}/model.safetensors  ({size(manifest.file.size_bytes)}, {how})")),
        ("Manifest", Text(f"{folder}/manifest.json")),
        ("sha256", Text(manifest.file.digest)),
        ("Tensors", Text(str(len(manifest.file.tensors)))),
    )


def phase(name: str, reason: str | None = None) -> Text:
    """Return a phase in its colour, with its reason where there is one that says more."""
    text = Text(name, style=PHASE_STYLES.get(name, ""))
    return text.append(f" ({reason})", style="dim") if reason and reason != name else text


def list_table(*columns: str) -> Table:
    """Return an empty list with a heading a column, in the form of all lists."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def fact_table(*rows: tuple[str, RenderableType]) -> Table:
    """Return one line a fact, without those that are not known."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if not (isinstance(value, Text) and value.plain in ("", NONE)):
            grid.add_row(name, value)
    return grid


def _add_site(grid: Table, site: SiteStatus) -> None:
    progress = site.progress
    done = 100 if site.phase == "Succeeded" else progress.percent if progress else 0
    if site.phase == "Running" and progress is not None:
        detail = _speed(progress)
    elif site.phase == "Succeeded":
        before, after, _ = loss_change(site.metrics)
        detail = f"{site.samples} samples  loss {before} -> {after}"
    else:
        detail = site.message or site.reason or ""
    grid.add_row(Text(site.name), _bar(done), Text(f"{done:3d} %"), phase(site.phase), Text(detail, style="dim"))


def _add_job(grid: Table, name: str, job: JobStatus) -> None:
    running, percent = job.phase == "Running", 0 if job.progress is None else job.progress.percent
    unknown = running and job.progress is None
    done = 100 if job.phase == "Succeeded" else percent
    detail = _speed(job.progress) if running and job.progress is not None and not job.message else job.message or ""
    shown = Text(f"{done:3d} %" if job.progress is not None else "")
    grid.add_row(Text(name), _bar(None if unknown else done), shown, phase(job.phase), Text(detail, style="dim"))


def _speed(progress: Progress) -> str:
    """Return how far a training or a merge is, how fast, and for how long still."""
    left = f"{short_duration(timedelta(seconds=progress.eta_seconds))} left"
    if progress.images_per_second is None:
        return f"slice {progress.step}/{progress.steps}  {left}"
    loss = "" if progress.loss is None else f"loss {progress.loss:.3f}  "
    return (
        f"epoch {min(progress.epoch + 1, progress.epochs)}/{progress.epochs}  {loss}"
        f"{progress.images_per_second:.0f} images/s  {left}"
    )


def _job_state(job: JobStatus | None) -> Text:
    """Return where a Job of the server stands, or a dash where there is none."""
    if job is None:
        return Text(NONE)
    state = phase(job.phase).append(f", attempt {job.attempt}")
    return state if job.progress is None else state.append(f", {job.progress.percent} %")


def _bar(percent: int | None) -> ProgressBar:
    """Return a bar; None pulses: it runs, and how far is not known."""
    return ProgressBar(total=100, completed=percent or 0, pulse=percent is None, width=BAR_WIDTH)


def _lineage_entry(model: Model) -> Group:
    spec = model.spec
    title = Text.assemble((model.name, "bold"), f"  {short(spec.digest)}  {spec.strategy}, round {spec.round.name}")
    return Group(title, *_contributors(f"{one.site}  {one.samples} samples" for one in spec.contributors))


def _contributors(lines: Iterable[str]) -> list[Text]:
    return [Text(f"  from {line}", style="dim") for line in lines]


def moment_text(moment: datetime | None, now: datetime) -> str:
    """Return a time and how long ago it was."""
    return NONE if moment is None else f"{moment.strftime('%Y-%m-%d %H:%M:%SZ')} ({age(moment, now)} ago)"


def model_reference(reference: ModelReference | None) -> str:
    """Return name and digest of a model."""
    return NONE if reference is None else f"{reference.name}  sha256:{reference.digest}"
