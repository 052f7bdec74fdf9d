"""charts/umim's telemetry: collector, Prometheus, Jaeger, dashboards for Grafana, alert rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from hack import render
from hack.dashboards import BOARDS, COLUMNS, FOLDER, build
from hack.images.catalog import TELEMETRY, find
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm

COLLECTOR = "telemetry.collector.enabled=true"
JAEGER = "telemetry.jaeger.enabled=true"
ALL = (COLLECTOR, "telemetry.prometheus.enabled=true", JAEGER)
ALERTS = render.CHARTS / "umim/files/alerts.yaml"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
DOCS = render.ROOT / "docs"


def rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_nothing_of_it_is_installed_unless_asked_for(helm: Helm) -> None:
    names = {one["metadata"]["name"] for one in helm.template("umim")}
    parts = ("collector", "prometheus", "jaeger", "dashboard")
    assert not {name for name in names if any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            (COLLECTOR, "telemetry.otlpEndpoint=http://mine:4318"),
            "choose one collector, the in-cluster one",
        ),
        (("telemetry.prometheus.enabled=true",), "scrapes the in-cluster collector, enable both"),
        ((COLLECTOR, "telemetry.collector.tracesEndpoint=jaeger:4318"), "'/telemetry/collector/tracesEndpoint'"),
        ((JAEGER,), "gets its traces from the in-cluster collector, enable both"),
        (
            (COLLECTOR, JAEGER, "telemetry.collector.tracesEndpoint=http://mine:4318"),
            "choose one store for traces, the in-cluster Jaeger or your own",
        ),
        ((COLLECTOR, JAEGER, "telemetry.jaeger.maxTraces=0"), "'/telemetry/jaeger/maxTraces'"),
        ((*ALL, "telemetry.prometheus.retention=long"), "'/telemetry/prometheus/retention'"),
        (("telemetry.alerts.runbooksUrl=docs",), "'/telemetry/alerts/runbooksUrl'"),
        (("telemetry.grafana.enabled=true",), "additional properties 'grafana' not allowed"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(helm: Helm, values: tuple[str, ...], message: str) -> None:
    assert message in helm.refusal("umim", *values)


def test_its_pods_are_restricted_and_get_no_token(helm: Helm) -> None:
    specs = kube.pod_specs(helm.template("umim", *ALL))
    for name in ("Deployment/umim-collector", "Deployment/umim-prometheus", "Deployment/umim-jaeger"):
        assert kube.restricted_violations(specs[name]) == []
        assert specs[name]["automountServiceAccountToken"] is False


def test_the_operator_sends_to_the_collector(helm: Helm) -> None:
    documents = helm.template("umim", *ALL)
    (operator,) = kube.pod_specs(documents)["Deployment/umim-operator"]["containers"]
    found = {item["name"]: item.get("value") for item in operator["env"]}
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://umim-collector.umim-system.svc:4318"
    ports = {one["name"]: one["port"] for one in kube.of_kind(documents, "Service")["umim-collector"]["spec"]["ports"]}
    assert ports == {"otlp-http": 4318, "metrics": 8889}


def config(documents: list[Any], name: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(kube.of_kind(documents, "ConfigMap")[name]["data"][file])
    return found


def test_traces_are_forwarded_where_there_is_a_store_for_them(helm: Helm) -> None:
    plain = config(helm.template("umim", COLLECTOR), "umim-collector", "collector.yaml")
    assert plain["service"]["pipelines"]["traces"]["exporters"] == ["debug"]
    values = (COLLECTOR, "telemetry.collector.tracesEndpoint=http://jaeger:4318")
    forwarding = config(helm.template("umim", *values), "umim-collector", "collector.yaml")
    assert forwarding["service"]["pipelines"]["traces"]["exporters"] == ["otlphttp/traces"]
    assert forwarding["exporters"]["otlphttp/traces"] == {"endpoint": "http://jaeger:4318"}
    assert "debug" not in forwarding["exporters"]


def test_the_collector_sends_traces_to_the_jaeger_which_takes_them_from_nobody_else(helm: Helm) -> None:
    documents = helm.template("umim", *ALL)
    exporters = config(documents, "umim-collector", "collector.yaml")["exporters"]
    assert exporters["otlphttp/traces"] == {"endpoint": "http://umim-jaeger.umim-system.svc:4318"}
    (traces, queries) = kube.of_kind(documents, "NetworkPolicy")["umim-jaeger"]["spec"]["ingress"]
    (sender,) = traces["from"]
    assert sender["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "collector"
    assert [one["port"] for one in (*traces["ports"], *queries["ports"])] == [4318, 16686]
    kept = config(documents, "umim-jaeger", "jaeger.yaml")["extensions"]["jaeger_storage"]["backends"]["traces"]
    assert kept == {"memory": {"max_traces": 5000}}


def test_a_change_of_configuration_restarts_the_pod(helm: Helm) -> None:
    def checksum(*values: str, name: str = "collector") -> str:
        deployment = kube.of_kind(helm.template("umim", *ALL, *values), "Deployment")[f"umim-{name}"]
        text: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return text

    assert checksum() == checksum()
    assert checksum(name="jaeger") != checksum("telemetry.jaeger.maxTraces=7", name="jaeger")
    assert checksum() == checksum("telemetry.jaeger.maxTraces=7")


def test_prometheus_scrapes_the_collector_with_the_alert_rules(helm: Helm) -> None:
    documents = helm.template("umim", *ALL)
    (job,) = config(documents, "umim-prometheus", "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["umim-collector.umim-system.svc:8889"]}]
    assert job["honor_labels"] is True
    there = kube.of_kind(documents, "ConfigMap")["umim-prometheus"]["data"]["alerts.yaml"]
    assert rules(there) == rules(ALERTS.read_text())


def test_the_images_of_telemetry_are_built_only_by_name() -> None:
    assert all(find(name).optional and not find(name).delivered for name in TELEMETRY)


# dashboards


def test_the_dashboards_are_what_their_declarations_make() -> None:
    assert [path.stem for path in DASHBOARDS] == sorted(board.name for board in BOARDS)
    for board in BOARDS:
        assert (FOLDER / f"{board.name}.json").read_text() == build(board), "run: make generate"


def test_each_dashboard_is_a_config_map_that_grafanas_sidecar_finds(helm: Helm) -> None:
    maps = kube.of_kind(helm.template("umim", "telemetry.dashboards.enabled=true"), "ConfigMap")
    assert set(maps) == {f"umim-dashboard-{board.name}" for board in BOARDS}
    for board in BOARDS:
        one = maps[f"umim-dashboard-{board.name}"]
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["data"][f"umim-{board.name}.json"].strip() == (FOLDER / f"{board.name}.json").read_text().strip()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_own_models_read_the_whole_of_a_dashboard(path: Path) -> None:
    there = json.loads(path.read_text())
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(there)))
    assert read == there


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_keeps_grafanas_rules(path: Path) -> None:
    board = json.loads(path.read_text())
    assert 0 < len(board["uid"]) <= 40
    variables = {one["name"] for one in board["templating"]["list"]}
    assert "datasource" in variables
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, f"{panel['title']} lies over another panel"
        assert place["x"] + place["w"] <= COLUMNS
        cells |= own
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_queries_use_only_variables_that_there_are(path: Path) -> None:
    board = json.loads(path.read_text())
    known = {"$" + one["name"] for one in board["templating"]["list"]} | {"$__range", "$__rate_interval"}
    for panel in board["panels"]:
        for target in panel["targets"]:
            found = {word.rstrip('"])') for word in target["expr"].replace("[", " ").replace('"', " ").split()}
            assert {word.rstrip("),") for word in found if word.startswith("$")} <= known, target["expr"]


# alerts


def test_the_alert_rules_are_a_prometheus_rule_where_asked_for(helm: Helm) -> None:
    documents = helm.template("umim", "telemetry.alerts.prometheusRule=true", "telemetry.alerts.labels.release=stack")
    rule = kube.of_kind(documents, "PrometheusRule")["umim"]
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "stack"
    assert [one for group in rule["spec"]["groups"] for one in group["rules"]] == rules(ALERTS.read_text())


def test_runbooks_are_linked_to_where_they_are_published(helm: Helm) -> None:
    url = "https://docs.example.org/runbooks/"
    values = ("telemetry.alerts.prometheusRule=true", f"telemetry.alerts.runbooksUrl={url}")
    rule = kube.of_kind(helm.template("umim", *values), "PrometheusRule")["umim"]
    for one in (item for group in rule["spec"]["groups"] for item in group["rules"]):
        assert one["annotations"]["runbook_url"] == f"{url}{one['alert']}.html"


@pytest.mark.parametrize("rule", rules(ALERTS.read_text()), ids=lambda rule: rule["alert"])
def test_each_alert_has_a_severity_a_summary_and_a_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    text = (render.ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    for section in ("Meaning", "Impact", "Diagnosis", "Remedy"):
        assert f"\n## {section}\n" in text


def test_each_runbook_is_of_an_alert() -> None:
    assert {path.stem for path in (DOCS / "runbooks").glob("Umim*.md")} == {
        rule["alert"] for rule in rules(ALERTS.read_text())
    }
