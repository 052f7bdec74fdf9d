"""The chart's configuration on the real Collector, Prometheus, Jaeger and promtool, fed with every metric there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link

from hack import render
from hack.dashboards import BOARDS, prometheus_name, substituted
from hack.testenv.jaeger import Jaeger
from hack.testenv.prometheus import Prometheus
from hack.testenv.waiting import wait_until
from tests.contract.servers import READY, free_port, running
from tests.unit.charts.helm import Helm
from umim import metrics as m
from umim.metrics import METRICS, Attributes, Metric
from umim.telemetry import Telemetry, round_context, round_trace_id

ROOT = Path(__file__).parents[2]
RULES = Path(__file__).with_name("alerts_test.yaml")
VALUES = ROOT / "manifests/samples/values/umim-telemetry.yaml"
UID = "a-round"
COLLECTOR_PORTS = ("4318", "8889", "13133")
TRACES = "http://umim-jaeger.umim-system.svc:4318"
JAEGER_PORTS = ("4318", "13133", "16686")

CHOICES: Attributes = {
    m.ROUND_PHASE: "Complete",
    m.ROUND_REASON: "Published",
    m.SITE_PHASE: "Succeeded",
    m.OUTCOME: "error",
    m.GPU: True,
    m.DIRECTION: "receive",
}


def built(*command: str) -> Path:
    """Return what one of the checkout's tools prints: the path of what it has made."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"python3 -m {' '.join(command)} failed"
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with Debian's prometheus and promtool."""
    return built("hack.promtool")


@pytest.fixture(scope="session")
def config_maps() -> dict[str, dict[str, str]]:
    """The ConfigMaps that the chart makes, by name."""
    documents = Helm(render.helm_binary()).template("umim", values=VALUES)
    return {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}


@dataclass(frozen=True)
class Stack:
    """A running Collector, the Prometheus that scrapes it and the Jaeger that it sends traces to."""

    otlp: str
    prometheus: Prometheus
    jaeger: Jaeger


def moved(text: str, ports: dict[str, int]) -> str:
    """Return a Collector's configuration that listens on other ports, of the loopback device."""
    return re.sub(r"0\.0\.0\.0:(\d+)", lambda match: f"127.0.0.1:{ports[match[1]]}", text)


@pytest.fixture(scope="session")
def stack(
    programs: Path, config_maps: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("telemetry")
    ports = {number: free_port() for number in COLLECTOR_PORTS}
    traces = {number: free_port() for number in JAEGER_PORTS}
    collector = moved(config_maps["umim-collector"]["collector.yaml"], ports)
    assert TRACES in collector
    (folder / "collector.yaml").write_text(collector.replace(TRACES, f"http://127.0.0.1:{traces['4318']}"))
    (folder / "jaeger.yaml").write_text(moved(config_maps["umim-jaeger"]["jaeger.yaml"], traces))
    config = yaml.safe_load(config_maps["umim-prometheus"]["prometheus.yml"])
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{ports['8889']}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yaml").write_text(config_maps["umim-prometheus"]["alerts.yaml"])
    listen = f"127.0.0.1:{free_port()}"
    command = [str(programs / "prometheus"), f"--config.file={folder}/prometheus.yml", f"--web.listen-address={listen}"]
    command += [f"--storage.tsdb.path={folder}/data", "--enable-feature=exemplar-storage"]
    with ExitStack() as all_:
        for name, program in (("jaeger", "jaeger"), ("collector", "otelcol")):
            binary = str(built("hack.cluster", "tool", program))
            all_.enter_context(running([binary, "--config", f"{folder}/{name}.yaml"], folder / f"{name}.log"))
        all_.enter_context(running(command, folder / "prometheus.log"))
        health = (f"127.0.0.1:{traces['13133']}/status", f"127.0.0.1:{ports['13133']}/", f"{listen}/-/ready")
        for url in health:
            READY(lambda url=url: urllib.request.urlopen(f"http://{url}", timeout=5).close())
        yield Stack(
            f"http://127.0.0.1:{ports['4318']}",
            Prometheus(f"http://{listen}"),
            Jaeger(f"http://127.0.0.1:{traces['16686']}"),
        )


def attributes(metric: Metric) -> dict[str, Any]:
    return {name: CHOICES.get(name, "x") for name in metric.attributes}


@pytest.fixture(scope="session")
def fed(stack: Stack) -> Stack:
    """The stack after every metric was recorded, the counters from zero on."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{stack.otlp}/v1/metrics"), 600_000)
    meters = MeterProvider([reader], Resource.create({"service.name": "umim-test", "service.instance.id": "one"}))
    metrics = Telemetry(None, meters).metrics
    for value in (3.0, 5.0):
        for metric in METRICS:
            metrics.record(metric, value, attributes(metric), round_context(UID))
        for phase in ("Training", "Failed"):
            metrics.record(m.ROUNDS, value, {m.NAMESPACE: "x", m.ROUND_PHASE: phase})
            metrics.record(m.ROUND_FINISHED, value, {**attributes(m.ROUND_FINISHED), m.ROUND_PHASE: phase})
        meters.force_flush()
        _wait_for(stack.prometheus, value)
    meters.shutdown()
    return stack


def _wait_for(prometheus: Prometheus, value: float) -> None:
    """Wait until Prometheus has scraped a value that was sent."""
    newest = prometheus_name(m.UPDATE_NORM)

    def arrived() -> bool:
        return any(series.last == value for series in prometheus.query(newest))

    wait_until(f"{newest} is {value}", arrived, 30, lambda: str(prometheus.query(newest)))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_collector_names_metrics_and_labels_as_the_dashboards_do(fed: Stack, metric: Metric) -> None:
    name = prometheus_name(metric) + ("_count" if metric.kind == "histogram" else "")
    (series, *_) = fed.prometheus.query(name)
    found = series.labels.keys() - {"__name__", "job", "instance"}
    assert {one for one in found if not one.startswith("otel_scope")} == {
        one.replace(".", "_") for one in metric.attributes
    }


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(query, id=f"{board.name}: {panel.title} {index}")
        for board in BOARDS
        for panel in board.panels
        for index, (query, _) in enumerate(panel.queries)
    ],
)
def test_every_query_of_the_dashboards_finds_something(fed: Stack, query: str) -> None:
    found = fed.prometheus.query(substituted(query))
    assert found, query
    assert all(series.finite for series in found), "not a number"


def test_a_histogram_leads_to_the_trace_of_a_round(fed: Stack) -> None:
    now = datetime.now(UTC)
    name = f"{prometheus_name(m.ROUND_DURATION)}_bucket"
    found = fed.prometheus.exemplars(name, now - timedelta(minutes=5), now + timedelta(minutes=1))
    assert {one["trace_id"] for one in found} == {round_trace_id(UID)}


def test_jaeger_keeps_a_trace_with_its_parents_and_does_not_take_a_link_for_one(stack: Stack) -> None:
    assert stack.jaeger.trace("0" * 31 + "1") == []
    provider = TracerProvider(resource=Resource.create({"service.name": "umim-test"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{stack.otlp}/v1/traces")))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("campaign") as campaign:
        pass
    links = [Link(campaign.get_span_context())]
    with tracer.start_as_current_span("round", links=links) as root, tracer.start_as_current_span("site"):
        pass
    provider.shutdown()
    trace = f"{root.get_span_context().trace_id:032x}"
    spans = wait_until("the trace", lambda: stack.jaeger.trace(trace) or None, 30, lambda: "no span came")
    assert [(span.service, span.name) for span in spans] == [("umim-test", "round"), ("umim-test", "site")]
    assert [span.parent for span in spans] == [None, spans[0].id]
    assert 0 <= spans[1].seconds <= spans[0].seconds < 30


def test_every_alert_can_be_evaluated(fed: Stack) -> None:
    def healthy() -> dict[str, str] | None:
        found = fed.prometheus.rules()
        return found if found and "unknown" not in str(found) else None

    states = wait_until("rules", healthy, 30, lambda: str(fed.prometheus.rules()))
    assert set(states) == alerts().keys()
    assert set(states.values()) <= {"inactive", "pending", "firing"}


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "charts/umim/files/alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_promtool_finds_the_rules_right_and_their_tests_pass(programs: Path, tmp_path: Path) -> None:
    for path in (RULES, ROOT / "charts/umim/files/alerts.yaml"):
        shutil.copy(path, tmp_path)
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", RULES.name]):
        done = subprocess.run(
            [str(programs / "promtool"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_to_fire_and_to_be_silent() -> None:
    tests = [one for group in yaml.safe_load(RULES.read_text())["tests"] for one in group["alert_rule_test"]]
    assert {one["alertname"] for one in tests if one.get("exp_alerts")} == alerts().keys()
    assert {one["alertname"] for one in tests if not one.get("exp_alerts")} == alerts().keys()
