"""The console of charts/umim: an option, read-only, called by nobody who is not named."""

from __future__ import annotations

from typing import Any

from tests.unit.charts import kube
from tests.unit.charts.helm import Helm
from umim.console.settings import ConsoleSettings

ON = "console.enabled=true"


def console(documents: list[Any]) -> dict[str, Any]:
    (container,) = kube.pod_specs(documents)["Deployment/umim-console"]["containers"]
    found: dict[str, Any] = container
    return found


def environment(documents: list[Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in console(documents)["env"]}


def test_nothing_of_it_is_there_unless_asked_for(helm: Helm) -> None:
    assert "console" not in str(helm.template("umim"))


def test_it_may_look_at_umims_resources_and_nothing_else(helm: Helm) -> None:
    documents = helm.template("umim", ON)
    resources = ("federations", "federationrounds", "globalmodels", "hospitals")
    wanted = kube.expand(*(f"umim.dev/{resource}: get list watch" for resource in resources))
    assert kube.rights(kube.of_kind(documents, "ClusterRole")["umim-console"]) == wanted
    bindings = {**kube.of_kind(documents, "ClusterRoleBinding"), **kube.of_kind(documents, "RoleBinding")}
    bound = {
        name: one["roleRef"]["name"]
        for name, one in bindings.items()
        if any(subject["name"] == "umim-console" for subject in one["subjects"])
    }
    assert bound == {"umim-console": "umim-console"}


def test_it_gets_no_secret_and_no_volume_but_a_temporary_folder(helm: Helm) -> None:
    documents = helm.template("umim", ON, "redis.enabled=true")
    assert not [one for one in console(documents)["env"] if "valueFrom" in one]
    assert "envFrom" not in console(documents)
    assert kube.pod_specs(documents)["Deployment/umim-console"]["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_its_settings_are_what_the_program_reads(helm: Helm) -> None:
    documents = helm.template(
        "umim", ON, "console.hosts={console.example.org}", "console.prometheusUrl=http://p:9090/x"
    )
    assert ConsoleSettings.from_env(environment(documents)) == ConsoleSettings(
        hosts=(
            "localhost",
            "127.0.0.1",
            "umim-console",
            "umim-console.umim-system",
            "umim-console.umim-system.svc",
            "console.example.org",
        ),
        port=console(documents)["ports"][0]["containerPort"],
        prometheus_url="http://p:9090/x",
    )


def test_its_curves_come_from_the_charts_own_prometheus_unless_another_is_named(helm: Helm) -> None:
    own = ("telemetry.collector.enabled=true", "telemetry.prometheus.enabled=true")
    url = "http://umim-prometheus.umim-system.svc:9090"
    assert environment(helm.template("umim", ON, *own))["UMIM_CONSOLE_PROMETHEUS_URL"] == url
    other = helm.template("umim", ON, *own, "console.prometheusUrl=http://p:9090")
    assert environment(other)["UMIM_CONSOLE_PROMETHEUS_URL"] == "http://p:9090"
    assert "UMIM_CONSOLE_PROMETHEUS_URL" not in environment(helm.template("umim", ON))


def test_it_runs_the_operators_image_with_a_command_of_its_own(helm: Helm) -> None:
    documents = helm.template("umim", ON, "image.operator.tag=v7")
    assert console(documents)["image"] == "localhost/umim/operator:v7"
    assert console(documents)["command"] == ["python", "-m", "umim.console"]


def test_probes_call_it_by_a_name_that_it_answers_to(helm: Helm) -> None:
    container = console(helm.template("umim", ON))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_it_is_reached_from_inside_the_cluster_alone(helm: Helm) -> None:
    documents = helm.template("umim", ON)
    service = kube.of_kind(documents, "Service")["umim-console"]["spec"]
    assert service.get("type", "ClusterIP") == "ClusterIP"
    assert kube.of_kind(documents, "Ingress") == {}


def test_its_network_policy_admits_nobody_who_is_not_named(helm: Helm) -> None:
    documents = helm.template("umim", ON)
    policy = kube.of_kind(documents, "NetworkPolicy")["umim-console"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "ingress" not in policy
    labels = kube.of_kind(documents, "Deployment")["umim-console"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels


def test_peers_that_are_named_reach_its_port(helm: Helm) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    json = 'console.ingressFrom=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"ingress"}}}]'
    documents = helm.template("umim", ON, json=[json])
    policy = kube.of_kind(documents, "NetworkPolicy")["umim-console"]["spec"]
    assert policy["ingress"] == [{"from": [peer], "ports": [{"protocol": "TCP", "port": "http"}]}]


def test_it_may_not_reach_store_and_redis(helm: Helm) -> None:
    documents = helm.template("umim", ON, "redis.enabled=true")
    for name in ("umim-minio", "umim-redis"):
        peers = kube.of_kind(documents, "NetworkPolicy")[name]["spec"]["ingress"][0]["from"]
        components = peers[0]["podSelector"]["matchExpressions"][1]["values"]
        assert "console" not in components
