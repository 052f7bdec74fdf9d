"""The Grafana dashboards in charts/umim/files/dashboards: ``python -m hack.dashboards`` writes them.

Panels are declared once, here. Grafana's own Foundation SDK turns them into JSON, the end-to-end tests ask the real
Prometheus each query, and ``hack.dashboard_pictures`` draws them for the documentation.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BarGaugeDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, VariableRefresh, VariableSort

from umim import metrics as m
from umim.metrics import Metric

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "charts/umim/files/dashboards"
COLUMNS = 24
SOURCE = "${datasource}"
DRIFT = -0.2
"""Cosine below which a site is said to drift, as in the alert."""

Kind = Literal["graph", "number", "bars"]


@dataclass(frozen=True)
class Panel:
    """One panel. ``queries``: PromQL and the legend of its series."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Kind = "graph"
    width: int = 12
    height: int = 8


@dataclass(frozen=True)
class Board:
    """One dashboard. ``variables``: name, label and query of each."""

    name: str
    title: str
    description: str
    variables: tuple[tuple[str, str, str], ...]
    panels: tuple[Panel, ...]


def prometheus_name(metric: Metric) -> str:
    """Return how the Collector's Prometheus exporter names a metric; of a histogram, without _bucket, _sum, _count.

    The rules are OpenTelemetry's (compatibility/prometheus_and_openmetrics): dots become underscores, the unit and, for
    a counter, ``total`` are appended unless the name ends so already.
    """
    name = metric.name.replace(".", "_")
    unit = {"s": "seconds", "By": "bytes"}.get(metric.unit, "per_second" if metric.unit.endswith("/s") else "")
    if unit and not name.endswith(unit):
        name = f"{name}_{unit}"
    return f"{name}_total" if metric.kind == "counter" else name


def label(attribute: str) -> str:
    """Return how an attribute is named in PromQL."""
    return attribute.replace(".", "_")


N, SITE, PHASE, MOMENT = (label(one) for one in (m.NAMESPACE, m.SITE, m.ROUND_PHASE, m.MOMENT))
IN_NAMESPACE = f'{N}=~"$namespace"'
IN_SITE = f'{SITE}=~"$site"'


def _grown(selector: str) -> str:
    """How much each series grew in the time range, its first value included.

    PromQL's increase takes the first value that it sees for the start: the first failure would not be seen. Rounds
    are rare, so that counts. A restarted operator makes new series.
    """
    newest = f"last_over_time({selector}[$__range])"
    return f"clamp_min({newest} - ({selector} offset $__range or {newest} * 0), 0)"


def _quantile(share: float, metric: Metric, by: str, where: str = "") -> str:
    buckets = _grown(f"{prometheus_name(metric)}_bucket{{{where}}}")
    return f"histogram_quantile({share}, sum by (le{', ' + by if by else ''}) ({buckets}))"


def _median_and_tail(metric: Metric, by: str) -> tuple[tuple[str, str], ...]:
    """Return queries and legends of the 50th and 95th percentile of a histogram in the namespace."""
    return tuple(
        (_quantile(share, metric, by, IN_NAMESPACE), f"p{share * 100:.0f} {{{{{by}}}}}") for share in (0.5, 0.95)
    )


def _total(metric: Metric, by: str, where: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}({_grown(f'{prometheus_name(metric)}{{{where}}}')})"


def _rate(metric: Metric, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({prometheus_name(metric)}{{{where}}}[$__rate_interval]))"


def _moved(by: str, where: str) -> str:
    """Bytes that Jobs moved: each is a series of its own, whose last value is its sum."""
    return f"sum by ({by}) (max_over_time({prometheus_name(m.STORE_BYTES)}{{{where}}}[$__range]))"


def _newest(metric: Metric, by: str, where: str = "") -> str:
    """A gauge, once: an operator that has just been replaced is still told of for a while."""
    return f"max by ({by}) ({prometheus_name(metric)}{{{where}}})"


_NAMESPACES = ("namespace", "Namespace", f"label_values({prometheus_name(m.ROUNDS)}, {N})")
_SITES = ("site", "Hospital", f"label_values({prometheus_name(m.SITE_FINISHED)}, {SITE})")
_RECONCILES = prometheus_name(m.RECONCILE_DURATION)
_KIND, _OUTCOME, _ERROR = label(m.KIND), label(m.OUTCOME), label(m.ERROR_TYPE)

PLATFORM = Board(
    "platform",
    "UMIM / Platform",
    "Is the platform healthy? Rounds, the operator, waits for quota and nodes, traffic to the store.",
    (_NAMESPACES,),
    (
        Panel(
            "Rounds under way",
            "Rounds that have not ended.",
            "short",
            ((f'sum(max by ({N}, {PHASE}) ({prometheus_name(m.ROUNDS)}{{{PHASE}!~"Complete|Failed"}}))', "under way"),),
            "number",
            6,
            4,
        ),
        Panel(
            "Rounds completed",
            "In the time range.",
            "short",
            ((_total(m.ROUND_FINISHED, "", f'{PHASE}="Complete"'), "complete"),),
            "number",
            6,
            4,
        ),
        Panel(
            "Rounds failed",
            "In the time range.",
            "short",
            ((_total(m.ROUND_FINISHED, "", f'{PHASE}="Failed"'), "failed"),),
            "number",
            6,
            4,
        ),
        Panel(
            "Operator: 99th percentile of a look",
            "Time of one reconciliation.",
            "s",
            ((_quantile(0.99, m.RECONCILE_DURATION, ""), "p99"),),
            "number",
            6,
            4,
        ),
        Panel(
            "Rounds by phase",
            "Rounds that exist now.",
            "short",
            ((_newest(m.ROUNDS, f"{N}, {PHASE}", IN_NAMESPACE) + " > 0", f"{{{{{N}}}}} {{{{{PHASE}}}}}"),),
        ),
        Panel(
            "Ends of rounds by reason",
            "Rounds that ended in the time range. QuorumNotReached: see runbook UmimRoundFailed.",
            "short",
            (
                (
                    _total(m.ROUND_FINISHED, f"{PHASE}, {label(m.ROUND_REASON)}", IN_NAMESPACE),
                    f"{{{{{PHASE}}}}} {{{{{label(m.ROUND_REASON)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Time of a round",
            "From its creation to its end.",
            "s",
            _median_and_tail(m.ROUND_DURATION, PHASE),
        ),
        Panel(
            "Reconciliations by outcome",
            "Looks a second. conflict: somebody else wrote first; error: see runbook UmimReconcileErrors.",
            "ops",
            (
                (
                    f"sum by ({_KIND}, {_OUTCOME}, {_ERROR}) (rate({_RECONCILES}_count[$__rate_interval]))",
                    f"{{{{{_KIND}}}}} {{{{{_OUTCOME}}}}} {{{{{_ERROR}}}}}",
                ),
            ),
        ),
        Panel(
            "Time of a reconciliation",
            "By kind of resource.",
            "s",
            tuple(
                (_quantile(share, m.RECONCILE_DURATION, _KIND), f"p{share * 100:.0f} {{{{{_KIND}}}}}")
                for share in (0.5, 0.99)
            ),
        ),
        Panel(
            "Waits of Jobs",
            "90th percentile. quota: until a queue admitted the Job; start: from then until its Pod was ready.",
            "s",
            (
                (
                    _quantile(0.9, m.JOB_WAIT, ", ".join(label(one) for one in (m.ROLE, m.WAIT, m.GPU))),
                    " ".join(f"{{{{{label(one)}}}}}" for one in (m.ROLE, m.WAIT)) + f" gpu={{{{{label(m.GPU)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Bytes moved",
            "From and to the object store in the time range, by role.",
            "bytes",
            (
                (
                    _moved(f"{label(m.ROLE)}, {label(m.DIRECTION)}", ""),
                    f"{{{{{label(m.ROLE)}}}}} {{{{{label(m.DIRECTION)}}}}}",
                ),
            ),
            "bars",
            24,
        ),
    ),
)

FEDERATION = Board(
    "federation",
    "UMIM / Federation",
    "How does the model learn? Campaigns, losses before and after, the sites side by side.",
    (_NAMESPACES,),
    (
        Panel(
            "Campaigns by phase",
            "Federations that exist now.",
            "short",
            (
                (
                    _newest(m.FEDERATIONS, f"{N}, {label(m.FEDERATION_PHASE)}", IN_NAMESPACE) + " > 0",
                    f"{{{{{N}}}}} {{{{{label(m.FEDERATION_PHASE)}}}}}",
                ),
            ),
        ),
        Panel(
            "Rounds of campaigns",
            "Done, and planned in all stages.",
            "short",
            (
                (
                    _newest(m.FEDERATION_ROUNDS, f"{N}, {label(m.FEDERATION)}, {label(m.STATE)}", IN_NAMESPACE),
                    f"{{{{{label(m.FEDERATION)}}}}} {{{{{label(m.STATE)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Loss of the newest model's round",
            "Validation loss, the sites weighted by their images, before and after training.",
            "none",
            ((_newest(m.MODEL_LOSS, f"{N}, {MOMENT}", IN_NAMESPACE), f"{{{{{N}}}}} {{{{{MOMENT}}}}}"),),
        ),
        Panel(
            "Loss on the server's images",
            "Masked image modelling, of the campaign's newest model. It rises: see stopEarly.",
            "none",
            (
                (
                    _newest(m.SERVER_LOSS, f"{N}, {label(m.FEDERATION)}", IN_NAMESPACE),
                    f"{{{{{label(m.FEDERATION)}}}}}",
                ),
            ),
        ),
        Panel(
            "Loss by site",
            "Validation loss at each hospital that lets metrics out, in its newest round.",
            "none",
            ((_newest(m.SITE_LOSS, f"{SITE}, {MOMENT}"), f"{{{{{SITE}}}}} {{{{{MOMENT}}}}}"),),
            "bars",
        ),
        Panel(
            "Drift",
            f"Cosine of a site's change to the mean of the others'. Below {DRIFT}: see runbook UmimSiteDrifts.",
            "none",
            ((_newest(m.UPDATE_COSINE, SITE), f"{{{{{SITE}}}}}"),),
            "bars",
        ),
        Panel(
            "Norm of updates",
            "L2 norm of each site's newest change of the model.",
            "none",
            ((_newest(m.UPDATE_NORM, SITE), f"{{{{{SITE}}}}}"),),
            "bars",
        ),
        Panel(
            "Ends of sites by reason",
            "Why sites were excluded, failed, came late or were refused, in the time range.",
            "short",
            (
                (
                    _total(m.SITE_FINISHED, f"{label(m.SITE_PHASE)}, {label(m.REASON)}"),
                    f"{{{{{label(m.SITE_PHASE)}}}}} {{{{{label(m.REASON)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Time to the quorum",
            "From the start of training.",
            "s",
            _median_and_tail(m.QUORUM_DURATION, N),
        ),
        Panel(
            "Time of a site",
            "From the start of its last Job to its end, by how it ended.",
            "s",
            (
                (
                    _quantile(0.9, m.SITE_DURATION, label(m.SITE_PHASE), IN_NAMESPACE),
                    f"p90 {{{{{label(m.SITE_PHASE)}}}}}",
                ),
            ),
        ),
    ),
)

HOSPITAL = Board(
    "hospital",
    "UMIM / Hospital",
    "What does this hospital contribute, what leaves it, and what does it cost?",
    (_SITES,),
    (
        Panel(
            "Bytes that left",
            "Updates and heads in the time range.",
            "bytes",
            ((_total(m.UPDATE_BYTES, "", IN_SITE), "left"),),
            "number",
            8,
            4,
        ),
        Panel(
            "Updates delivered",
            "In the time range.",
            "short",
            (
                (
                    _total(m.SITE_FINISHED, "", f'{IN_SITE}, {label(m.SITE_PHASE)}="Succeeded"'),
                    "delivered",
                ),
            ),
            "number",
            8,
            4,
        ),
        Panel(
            "Privacy budget left",
            "Epsilon that trainings here may still spend, at the delta of the budget.",
            "none",
            ((_newest(m.EPSILON_REMAINING, SITE, IN_SITE), f"{{{{{SITE}}}}}"),),
            "number",
            8,
            4,
        ),
        Panel(
            "Training throughput",
            "Images a second, while a Job runs.",
            "none",
            ((_newest(m.IMAGES_PER_SECOND, SITE, IN_SITE), f"{{{{{SITE}}}}}"),),
        ),
        Panel(
            "Training loss",
            "While a Job runs, where the hospital lets metrics out.",
            "none",
            ((_newest(m.TRAINING_LOSS, SITE, IN_SITE), f"{{{{{SITE}}}}}"),),
        ),
        Panel(
            "Validation loss",
            "In the newest round, before and after training.",
            "none",
            ((_newest(m.SITE_LOSS, f"{SITE}, {MOMENT}", IN_SITE), f"{{{{{SITE}}}}} {{{{{MOMENT}}}}}"),),
            "bars",
        ),
        Panel(
            "Epsilon spent",
            "By all trainings together.",
            "none",
            ((_newest(m.EPSILON_SPENT, SITE, IN_SITE), f"{{{{{SITE}}}}}"),),
        ),
        Panel(
            "Time of the newest round here",
            "From the start of the last Job to the update.",
            "s",
            ((_newest(m.SITE_LAST_DURATION, SITE, IN_SITE), f"{{{{{SITE}}}}}"),),
            "bars",
        ),
        Panel(
            "Ends of rounds here",
            "In the time range, with the reason.",
            "short",
            (
                (
                    _total(m.SITE_FINISHED, f"{SITE}, {label(m.SITE_PHASE)}, {label(m.REASON)}", IN_SITE),
                    f"{{{{{SITE}}}}} {{{{{label(m.SITE_PHASE)}}}}} {{{{{label(m.REASON)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Failed attempts",
            "In the time range, by reason.",
            "short",
            (
                (
                    _total(m.SITE_FAILURES, f"{SITE}, {label(m.REASON)}", IN_SITE),
                    f"{{{{{SITE}}}}} {{{{{label(m.REASON)}}}}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Bytes between here and the store",
            "Moved by the Jobs in the time range: receive is what came in, transmit what went out.",
            "bytes",
            (
                (
                    _moved(f"{SITE}, {label(m.DIRECTION)}", IN_SITE),
                    f"{{{{{SITE}}}}} {{{{{label(m.DIRECTION)}}}}}",
                ),
            ),
            "bars",
        ),
    ),
)

BOARDS = (PLATFORM, FEDERATION, HOSPITAL)


def positions(board: Board) -> list[GridPos]:
    """Return where each panel lies: in rows, from left to right."""
    found, x, y, row = [], 0, 0, 0
    for panel in board.panels:
        if x + panel.width > COLUMNS:
            x, y, row = 0, y + row, 0
        found.append(GridPos(h=panel.height, w=panel.width, x=x, y=y))
        x, row = x + panel.width, max(row, panel.height)
    return found


def build(board: Board) -> str:
    """Return a dashboard's JSON."""
    made = (
        Dashboard(board.title)
        .uid(f"umim-{board.name}")
        .description(board.description)
        .tags(["umim"])
        .timezone("browser")
        .refresh("30s")
        .time("now-6h", "now")
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for name, title, query in board.variables:
        made = made.with_variable(
            QueryVariable(name)
            .label(title)
            .query(query)
            .datasource(_source())
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    for number, (panel, place) in enumerate(zip(board.panels, positions(board), strict=True), start=1):
        made = made.with_panel(_panel(panel, number, place))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=2, sort_keys=True) + "\n"


def _panel(panel: Panel, number: int, place: GridPos) -> timeseries.Panel | stat.Panel | bargauge.Panel:
    made: timeseries.Panel | stat.Panel | bargauge.Panel
    if panel.kind == "graph":
        made = timeseries.Panel().fill_opacity(10).span_nulls(True)
    elif panel.kind == "number":
        made = stat.Panel()
    else:
        made = bargauge.Panel().display_mode(BarGaugeDisplayMode.BASIC)
    made = made.id(number).title(panel.title).description(panel.description).unit(panel.unit).grid_pos(place)
    made = made.datasource(_source())
    for index, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + index))
        query = query.instant() if panel.kind != "graph" else query.range().exemplar("_bucket" in expression)
        made = made.with_target(query)
    return made


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=SOURCE)


def substituted(expression: str, interval: str = "5m", span: str = "1h") -> str:
    """Return a query as Grafana sends it with everything chosen: for tests and pictures."""
    text = expression.replace("$__rate_interval", interval).replace("$__range", span)
    return re.sub(r"\$(namespace|site)\b", ".*", text)


def main() -> None:
    """Write the dashboards."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(build(board))
        print(f"wrote {(FOLDER / board.name).relative_to(ROOT)}.json")


if __name__ == "__main__":
    main()
