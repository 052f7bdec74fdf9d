"""The list of rounds, and one round. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from umim import contract
from umim.api.base import Condition, parse_duration
from umim.api.round import JobStatus, SiteStatus
from umim.cli.resources import Model, Round
from umim.cli.words import loss_change
from umim.console.charts import Chart, Series, line_chart
from umim.console.cluster import Snapshot
from umim.console.pages.parts import BadQueryError, Fact, Pager, done, newest_first, only, paged, percent
from umim.console.prometheus import CURVES, Answer, Prometheus
from umim.console.words import Shape, State, count, duration, figure, moment, state

SITES = 100
"""Sites of one page of a round."""


@dataclass(frozen=True)
class Group:
    """Phases that are one to a reader."""

    title: str
    shape: Shape
    phases: tuple[str, ...]


GROUPS: Mapping[str, Group] = {
    "running": Group("Running", "running", ("Pending", "Initializing", "Training", "Aggregating")),
    "suspended": Group("Suspended", "paused", ("Suspended",)),
    "complete": Group("Complete", "done", ("Complete",)),
    "failed": Group("Failed", "failed", ("Failed",)),
}


@dataclass(frozen=True)
class RoundList:
    """What the list of rounds shows."""

    rounds: Pager[Round]
    chosen: str | None
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    """A Job of the server."""

    title: str
    state: State
    job: JobStatus


@dataclass(frozen=True)
class SiteRow:
    """A site of a round."""

    site: SiteStatus
    state: State
    href: str | None
    """None: there is no such Hospital (any more)."""
    attempt: str
    percent: int | None
    progress: str
    samples: str
    loss: str
    change: str
    details: Sequence[str]
    """More figures, in words."""


@dataclass(frozen=True)
class RoundPage:
    """What the page of a round shows."""

    round: Round
    state: State
    sentence: str
    percent: int | None
    facts: Sequence[Fact]
    conditions: Sequence[Condition]
    jobs: Sequence[Job]
    sites: Pager[SiteRow]
    model: Model | None
    charts: Sequence[Chart]
    no_curves: str
    """Why there are no curves of Prometheus. Empty: there are."""


def group(one: Round) -> str:
    """Return the group that a round is in."""
    return next(name for name, found in GROUPS.items() if one.status.phase in found.phases)


def round_list(seen: Snapshot, query: Mapping[str, str]) -> RoundList:
    """Return the list of rounds, newest first. Raises BadQueryError."""
    query = only(query, "phase", "page")
    chosen = query.get("phase")
    if chosen is not None and chosen not in GROUPS:
        raise BadQueryError(f"phase must be one of {', '.join(GROUPS)}")
    found = [one for one in newest_first(seen.rounds) if chosen is None or group(one) == chosen]
    counts = {name: sum(group(one) == name for one in seen.rounds) for name in GROUPS}
    return RoundList(paged(found, query, "/rounds"), chosen, counts)


def round_page(
    seen: Snapshot, one: Round, query: Mapping[str, str], now: datetime, prometheus: Prometheus | None
) -> RoundPage:
    """Return the page of a round. Raises BadQueryError. Asks Prometheus, where there is one, and nothing else."""
    status = one.status
    sites = paged(status.sites, only(query, "page"), f"/rounds/{one.namespace}/{one.name}", size=SITES)
    hospitals = {(found.namespace, found.name) for found in seen.hospitals}
    rows = [_site_row(site, one, hospitals, now) for site in sites.items]
    curves, problem = _curves(one, now, prometheus)
    before_after = _before_after(status.sites)
    reference = status.global_model
    return RoundPage(
        round=one,
        state=state(status.phase),
        sentence=_sentence(one),
        percent=percent(status.progress),
        facts=_facts(one, now),
        conditions=status.conditions,
        jobs=_jobs(one),
        sites=Pager(rows, sites.number, sites.pages, sites.total, sites.first, sites.last, sites.previous, sites.next),
        model=seen.model(one.namespace, reference.name) if reference is not None else None,
        charts=[*([before_after] if before_after is not None else []), *curves],
        no_curves=problem,
    )


def summary(one: Round) -> str:
    """Return how many sites are done, in words."""
    sites = len(one.status.sites)
    quorum = f"quorum {one.spec.participants.quorum}"
    return f"{done(one.status)} of {count(sites, 'site')} done, {quorum}" if sites else f"no sites yet, {quorum}"


def _sentence(one: Round) -> str:
    """Return what goes on while the round runs, and what came of it in the words of its conditions."""
    running = {
        "Initializing": "The server makes the start model; then the sites train.",
        "Training": f"The sites train; {one.spec.participants.quorum} of their updates are needed.",
        "Aggregating": "Enough updates have come; the server merges them.",
    }
    return running.get(one.status.phase, one.message)


def _facts(one: Round, now: datetime) -> list[Fact]:
    spec, status = one.spec, one.status
    campaign = one.raw["metadata"].get("labels", {}).get(contract.LABEL_FEDERATION)
    start = status.parent or None
    asked = spec.model.parent.global_model
    name = start.name if start is not None else asked
    facts = [
        Fact("Sites", summary(one)),
        Fact("Encoder", f"{spec.model.architecture}, {spec.model.image_size} x {spec.model.image_size}"),
        Fact("Starts from", name, f"/models/{one.namespace}/{name}")
        if name is not None
        else Fact("Starts from", f"a new model, {spec.model.parent.init}"),
        Fact("Training", f"{spec.training.objective}, {count(spec.training.epochs, 'epoch')}"),
        Fact("Aggregation", f"{spec.aggregation.strategy}, updates as {spec.aggregation.encoding.format}"),
        Fact("Deadline", duration(parse_duration(spec.deadline)) + " for the sites"),
        Fact("Created", moment=moment(one.created, now)),
    ]
    if campaign is not None:
        facts.insert(0, Fact("Federation", campaign, f"/federations/{one.namespace}/{campaign}"))
    if status.start_time is not None:
        facts.append(Fact("Sites started", moment=moment(status.start_time, now)))
        if not one.finished and status.phase == "Training":
            due = status.start_time + parse_duration(spec.deadline)
            facts.append(Fact("Deadline ends", moment=moment(due, now)))
    if status.completion_time is not None:
        facts.append(Fact("Ended", moment=moment(status.completion_time, now)))
    if status.trace_id:
        facts.append(Fact("Trace", status.trace_id, code=True))
    return facts


def _jobs(one: Round) -> list[Job]:
    titles = {"init": "Start model", "aggregate": "Merge of the updates"}
    return [Job(titles[role], state(job.phase), job) for role, job in one.status.server_jobs().items()]


def _site_row(site: SiteStatus, one: Round, hospitals: set[tuple[str, str]], now: datetime) -> SiteRow:
    before, after, change = loss_change(site.metrics)
    progress = site.progress
    words, share = "", None
    if site.phase == "Succeeded":
        words, share = "update received", 100
    elif site.phase == "Running":
        words = "no report yet"
    if progress is not None and site.phase == "Running":
        share = progress.percent
        left = duration(timedelta(seconds=progress.eta_seconds))
        speed = f"{progress.images_per_second:.0f} images/s, " if progress.images_per_second is not None else ""
        words = f"epoch {min(progress.epoch + 1, progress.epochs)} of {progress.epochs}, {speed}{left} left"
    elif site.phase == "Backoff" and (again := moment(site.retry_time, now)) is not None:
        words = f"tries again {again.relative}"
    return SiteRow(
        site=site,
        state=state(site.phase),
        href=f"/hospitals/{site.namespace}/{site.hospital}" if (site.namespace, site.hospital) in hospitals else None,
        attempt=f"{site.attempt} of {one.spec.retries + 1}" if site.attempt else "–",
        percent=share,
        progress=words,
        samples="–" if site.samples is None else f"{site.samples:,}",
        loss="–" if not site.metrics else f"{before} → {after}".replace("-", "–"),
        change="–" if change == "-" else change.replace("-", "−"),
        details=_details(site),
    )


def _details(site: SiteStatus) -> list[str]:
    details = []
    if site.differential_privacy is not None:
        record = site.differential_privacy
        details.append(f"differential privacy: epsilon {figure(record.epsilon)} at delta {figure(record.delta)}")
    if site.update_norm is not None:
        cosine = f", cosine to the others {figure(site.update_cosine)}" if site.update_cosine is not None else ""
        details.append(f"norm of the change {figure(site.update_norm)}{cosine}")
    if site.outlier:
        details.append("unlike the others: look at the hospital's data")
    return details


def _before_after(sites: Sequence[SiteStatus]) -> Chart | None:
    series = [
        Series(site.name, ((0.0, site.metrics["loss_before"]), (1.0, site.metrics["loss_after"])))
        for site in sites
        if site.metrics and {"loss_before", "loss_after"} <= site.metrics.keys()
    ]
    return line_chart(
        "Loss on each hospital's own validation patients",
        "training of this round",
        "loss",
        series,
        lambda value: {0.0: "before", 1.0: "after"}.get(value, ""),
    )


def _curves(one: Round, now: datetime, prometheus: Prometheus | None) -> tuple[list[Chart], str]:
    if prometheus is None:
        return [], (
            "Curves over time need a Prometheus with UMIM's metrics: set console.prometheusUrl of charts/umim. What "
            "the round's status holds is above."
        )
    start = one.status.start_time
    if start is None or not one.status.sites:
        return [], "Curves begin when the sites start."
    end = one.status.completion_time or now
    charts, problems = [], []
    for curve in CURVES:
        answer: Answer = prometheus.curve(curve, [site.name for site in one.status.sites], start, end)
        chart = line_chart(curve.title, "minutes since the sites started", curve.unit, answer.series)
        if chart is not None:
            charts.append(chart)
        elif answer.problem:
            problems.append(answer.problem)
    if not charts and not problems:
        problems.append("Prometheus has no values of these sites in the time of the round.")
    return charts, "; ".join(dict.fromkeys(problems))
