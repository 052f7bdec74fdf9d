"""The real Collector, Prometheus and Jaeger: after a real campaign no panel is empty and no trace is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hack.dashboard_pictures import draw
from hack.dashboards import BOARDS, prometheus_name, substituted
from hack.images.catalog import TELEMETRY
from hack.testenv.campaigns import Campaign, federation_body, stage
from hack.testenv.handle import SECONDS
from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.images import write_textures
from hack.testenv.jaeger import Jaeger, Span
from hack.testenv.platform import FEDERATION, OPERATOR, PREFIX, RELEASE, SYSTEM, Platform, load_images
from hack.testenv.prometheus import Prometheus
from hack.testenv.volumes import federation_volume
from hack.testenv.waiting import wait_until
from hack.trace_picture import draw as draw_trace
from umim import metrics as m

pytestmark = pytest.mark.alone("the operator restarts")

CLAIM = "dashboards-pool"
POOL = {"claimName": CLAIM, "path": "pool.npz", "format": "npz", "task": "none"}
FLOOR = {"minNoiseMultiplier": 1.0, "epsilonBudget": 500}
MOST_SERIES = 3000
"""More than a campaign of three hospitals can make; a label that grows with rounds or Jobs would."""
LABELS = {"__name__", "job", "instance", "le", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}


@pytest.fixture(scope="module")
def prometheus(platform: Platform) -> Iterator[Prometheus]:
    """The chart's Prometheus, and an operator that sends to the chart's collector, which has a Jaeger."""
    load_images(*TELEMETRY)
    before = platform.api.find("Service", SYSTEM, "umim-prometheus") is not None
    if before:  # a demonstration's, which has counted the rounds of other tests
        _enable(platform, False)
    _enable(platform, True)
    try:
        yield Prometheus(f"http://{platform.address('umim-prometheus')}:9090")
    finally:
        _enable(platform, before)


@pytest.fixture(scope="module")
def jaeger(platform: Platform, prometheus: Prometheus) -> Jaeger:
    """The chart's Jaeger, which was installed with Prometheus."""
    return Jaeger(f"http://{platform.address('umim-jaeger')}:16686")


def _enable(platform: Platform, enabled: bool) -> None:
    values = {"telemetry": {name: {"enabled": enabled} for name in TELEMETRY}}
    platform.helm.install(RELEASE, "umim", SYSTEM, values, keep_values=True, wait=True)
    platform.wait_ready(OPERATOR)


@pytest.fixture(scope="module")
def campaign(
    platform: Platform,
    hospitals: Hospitals,
    sites: tuple[Site, Site, Site],
    prometheus: Prometheus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Campaign]:
    """A campaign over three hospitals, one of which has a privacy budget, that has ended after two of three rounds."""
    private = hospitals.add(f"{PREFIX}-budget", {"privacy": {"differentialPrivacy": FLOOR}}, seed=7)
    folder = tmp_path_factory.mktemp("dashboards") / "pool"
    # Images of its own: from those of another campaign the same start model would come, which that one made first.
    write_textures(folder / "pool.npz", 24, seed=10)
    body = federation_body(
        "seen",
        [stage("one", (*sites[:2], private), rounds=3)],
        {"init": "mim"},
        pretraining={"epochs": 1, "batchSize": 8},
        serverDataset=POOL,
        aggregation={"strategy": "geometric-median"},
        stopEarly={"patience": 1, "minImprovement": 1000},  # more than any round can bring
    )
    # What still ran of a test before would be counted among this campaign's rounds.
    wait_until("no round runs", lambda: not running_rounds(platform), 60, lambda: str(running_rounds(platform)))
    with federation_volume(platform, CLAIM, folder):
        made = Campaign.create(platform, body)
        made.wait("phase Complete", lambda status: status.get("phase") == "Complete", 3 * SECONDS)
        yield made
        made.delete()


def running_rounds(platform: Platform) -> dict[str, str]:
    """Return the phases of the rounds that have not ended, by name."""
    rounds = platform.api.select("FederationRound", FEDERATION)
    phases = {one["metadata"]["name"]: one.get("status", {}).get("phase", "Pending") for one in rounds}
    return {name: phase for name, phase in phases.items() if phase not in ("Complete", "Failed")}


def test_a_campaign_that_improves_too_little_ends_early(campaign: Campaign) -> None:
    status = campaign.status
    assert status["reason"] == "StoppedEarly"
    assert len(campaign.rounds) == len(status["lineage"]) - 1 == 2


def empty_panels(prometheus: Prometheus) -> list[str]:
    """Return the queries of all dashboards that find no number."""
    return [
        f"{board.name}: {panel.title}: {query}"
        for board in BOARDS
        for panel in board.panels
        for query, _ in panel.queries
        if not any(series.finite for series in prometheus.query(substituted(query, span="15m")))
    ]


def test_after_a_campaign_no_query_of_a_dashboard_is_empty(campaign: Campaign, prometheus: Prometheus) -> None:
    wait_until("every panel", lambda: not empty_panels(prometheus), 60, lambda: "\n".join(empty_panels(prometheus)))


def test_the_time_of_a_round_leads_to_its_trace_with_every_job_and_its_steps(
    campaign: Campaign, prometheus: Prometheus, jaeger: Jaeger, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    name = f"{prometheus_name(m.ROUND_DURATION)}_bucket"
    found = prometheus.exemplars(name, now - timedelta(minutes=15), now)
    first = campaign.rounds[0]
    assert first.status["traceId"] in {one["trace_id"] for one in found}

    def spans() -> list[Span] | None:
        seen = jaeger.trace(first.status["traceId"])
        return seen if any(span.parent is None for span in seen) else None

    seen = wait_until("the root span", spans, 60, lambda: str(jaeger.trace(first.status["traceId"])))
    names = {span.id: span.name for span in seen}
    (root,) = [span for span in seen if span.parent is None]
    assert root.name == f"{FEDERATION}/{first.name}"
    assert all(span.parent in names for span in seen if span is not root)
    jobs = [span.name for span in seen if span.parent == root.id and span.service != OPERATOR]
    assert sorted(jobs) == ["aggregate", "pretrain", "train_site", "train_site", "train_site"]
    steps = {(names[span.parent or ""], span.name) for span in seen if span is not root}
    assert steps >= {
        *(("train_site", step) for step in ("fetch_model", "load_data", "train", "upload")),
        *(("aggregate", step) for step in ("collect", "merge", "publish")),
    }
    draw_trace(seen).savefig(tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 30_000


def test_series_are_bounded_and_name_no_round_job_or_attempt(campaign: Campaign, prometheus: Prometheus) -> None:
    found = prometheus.query('{__name__=~"umim_.*"}')
    assert 100 < len(found) < MOST_SERIES
    allowed = LABELS | {name.replace(".", "_") for name in m.ATTRIBUTES} | {"otel_metric_overflow"}
    assert {label for series in found for label in series.labels} <= allowed


def test_every_alert_is_evaluated_and_none_fires_after_a_good_campaign(
    campaign: Campaign, prometheus: Prometheus
) -> None:
    states = prometheus.rules()
    assert len(states) == 10
    assert not [state for state in states.values() if state.startswith("unhealthy")]
    # Rounds of another federation are not this campaign's.
    alerts = [one for one in prometheus.alerts() if one.get("k8s_namespace_name", FEDERATION) == FEDERATION]
    # Which way three tiny models of different textures point is chance.
    assert [one for one in alerts if one["alertname"] != "UmimSiteDrifts"] == [], campaign.dump()


def test_the_dashboards_can_be_drawn(campaign: Campaign, prometheus: Prometheus, tmp_path: Path) -> None:
    pictures = draw(prometheus, tmp_path, timedelta(minutes=3))
    assert [path.name for path in pictures] == ["platform.png", "federation.png", "hospital.png"]
    assert all(path.stat().st_size > 30_000 for path in pictures)
