"""charts/umim: TLS of MinIO and Redis, and which CA the operator is told."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.authority import Authority, Pair
from tests.unit.charts import kube
from tests.unit.charts.helm import Helm
from tests.unit.charts.test_umim_chart import EXTERNAL, environment, operator_container
from tests.unit.test_tls import handshake

BOTH = ("minio.enabled=true", "redis.enabled=true")
REDIS_URL = "redis.url=rediss://r.example.org:6380/0"
SERVERS = {"minio": "UMIM_S3_CA", "redis": "UMIM_REDIS_CA"}
CA = Authority("the hospital's own").pem


def generated(documents: list[Any], server: str) -> dict[str, str]:
    """Return what the chart's own certificate of a server consists of."""
    secret = kube.of_kind(documents, "Secret")[f"umim-{server}-tls"]
    assert secret["type"] == "kubernetes.io/tls"
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def pod(documents: list[Any], server: str) -> dict[str, Any]:
    """Return the Pod template of MinIO or Redis."""
    template: dict[str, Any] = kube.of_kind(documents, "Deployment")[f"umim-{server}"]["spec"]["template"]
    return template


@pytest.mark.parametrize("server", SERVERS)
def test_the_certificate_that_the_chart_makes_is_trusted_by_its_ca_under_the_services_name(
    helm: Helm, server: str, tmp_path: Path
) -> None:
    documents = helm.template("umim", *BOTH)
    made = generated(documents, server)
    assert set(made) == {"ca.crt", "tls.crt", "tls.key"}
    pair = Pair(made["tls.crt"], made["tls.key"])
    for name in (f"umim-{server}.umim-system.svc", "127.0.0.1"):
        assert handshake(pair, made["ca.crt"], name, tmp_path) is None
    assert handshake(pair, made["ca.crt"], "umim-other.umim-system.svc", tmp_path) is not None
    assert environment(operator_container(documents))[SERVERS[server]] == made["ca.crt"]


def test_store_and_redis_are_reached_with_tls_by_operator_and_set_up(helm: Helm) -> None:
    documents = helm.template("umim", *BOTH)
    found = environment(operator_container(documents))
    assert found["UMIM_S3_ENDPOINT"] == "https://umim-minio.umim-system.svc:9000"
    assert found["UMIM_REDIS_URL"] == "rediss://umim-redis.umim-system.svc:6379/0"
    setup = environment(kube.pod_specs(documents)["Job/umim-store-setup"]["containers"][0])
    assert {name: setup[name] for name in ("UMIM_S3_ENDPOINT", "UMIM_S3_CA")} == {
        name: found[name] for name in ("UMIM_S3_ENDPOINT", "UMIM_S3_CA")
    }


def test_redis_has_no_port_for_plain_connections(helm: Helm) -> None:
    (container,) = pod(helm.template("umim", *BOTH), "redis")["spec"]["containers"]
    command = container["command"]
    options = dict(pairwise(command))
    assert (options["--port"], options["--tls-port"]) == ("0", "6379")


def test_the_probes_of_minio_use_tls(helm: Helm) -> None:
    (container,) = pod(helm.template("umim", *BOTH), "minio")["spec"]["containers"]
    probes = [container[name]["httpGet"]["scheme"] for name in ("livenessProbe", "readinessProbe")]
    assert probes == ["HTTPS", "HTTPS"]
    (container,) = pod(helm.template("umim", *BOTH, "minio.tls.enabled=false"), "minio")["spec"]["containers"]
    assert (container["livenessProbe"]["httpGet"]["scheme"], "args" in container) == ("HTTP", False)


@pytest.mark.parametrize("server", SERVERS)
def test_private_keys_are_mounted_where_they_are_needed_and_only_the_group_reads_them(helm: Helm, server: str) -> None:
    documents = helm.template("umim", *BOTH)
    for name, spec in kube.pod_specs(documents).items():
        held = [volume for volume in spec["volumes"] if volume.get("secret", {}).get("secretName", "").endswith("-tls")]
        if name == f"Deployment/umim-{server}":
            assert [volume["secret"]["secretName"] for volume in held] == [f"umim-{server}-tls"]
            assert held[0]["secret"]["defaultMode"] == 0o440
        elif name in ("Deployment/umim-operator", "Job/umim-store-setup"):
            assert held == []


@pytest.mark.parametrize("server", SERVERS)
def test_a_new_certificate_starts_its_server_anew(helm: Helm, server: str) -> None:
    marks = {pod(helm.template("umim", *BOTH), server)["metadata"]["annotations"]["checksum/tls"] for _ in range(2)}
    assert len(marks) == 2
    assert all(len(mark) == 64 for mark in marks)


@pytest.mark.parametrize("server", SERVERS)
def test_a_secret_of_your_own_is_used_as_it_is(helm: Helm, server: str) -> None:
    documents = helm.template("umim", *BOTH, f"{server}.tls.existingSecret=mine")
    assert f"umim-{server}-tls" not in kube.of_kind(documents, "Secret")
    template = pod(documents, server)
    assert "mine" in [volume.get("secret", {}).get("secretName") for volume in template["spec"]["volumes"]]
    assert "annotations" not in template["metadata"]
    (ca,) = [item for item in operator_container(documents)["env"] if item["name"] == SERVERS[server]]
    assert ca["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "ca.crt", "optional": True}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f"ca.bundle={json.dumps(CA)}", CA),
        ('ca.existingConfigMap="trust"', "trust/ca.crt"),
        ('ca={"existingSecret":"trust","key":"root.pem"}', "trust/root.pem"),
    ],
)
def test_the_ca_of_an_external_store_and_redis_comes_from_the_values_or_an_object(
    helm: Helm, value: str, shown: str
) -> None:
    documents = helm.template("umim", *EXTERNAL, REDIS_URL, json=[f"objectStore.{value}", f"redis.{value}"])
    found = environment(operator_container(documents))
    assert (found["UMIM_S3_CA"], found["UMIM_REDIS_CA"]) == (shown, shown)


def test_without_a_ca_the_systems_authorities_are_trusted(helm: Helm) -> None:
    found = environment(operator_container(helm.template("umim", *EXTERNAL, REDIS_URL)))
    assert not [name for name in found if name.endswith("_CA")]


@pytest.mark.parametrize(
    ("values", "raw", "message"),
    [
        (BOTH, ('objectStore.ca.existingSecret="x"',), "the in-cluster server's CA comes with minio.tls, leave objec"),
        (BOTH, ('redis.ca.existingSecret="x"',), "the in-cluster server's CA comes with redis.tls, leave redis.ca"),
        (EXTERNAL, ('objectStore.ca={"existingSecret":"x","existingConfigMap":"y"}',), "names several sources"),
        (
            (*EXTERNAL, "objectStore.endpoint=http://s3:9000"),
            ('objectStore.ca.existingSecret="x"',),
            'objectStore.ca is set, but "http://s3:9000" does not use TLS: begin the URL with https://',
        ),
        (
            (*EXTERNAL, "redis.url=redis://r:6379"),
            ('redis.ca.existingSecret="x"',),
            'redis.ca is set, but "redis://r:6379" does not use TLS: begin the URL with rediss://',
        ),
        (EXTERNAL, ('redis.ca.existingSecret="x"',), 'redis.ca is set, but "" does not use TLS'),
        (
            EXTERNAL,
            (f"objectStore.ca.bundle={json.dumps('-----BEGIN PRIVATE KEY-----' + CA)}",),
            "objectStore.ca.bundle holds a private key: it goes to every hospital",
        ),
        (EXTERNAL, ('objectStore.ca.bundle="/etc/ssl/ca.pem"',), "'/objectStore/ca/bundle'"),
        (EXTERNAL, ('objectStore.ca.key="a/b"',), "'/objectStore/ca/key'"),
        (EXTERNAL, ("objectStore.ca.insecureSkipVerify=true",), "additional properties 'insecureSkipVerify'"),
        (EXTERNAL, ('minio.tls.existingSecret="x"',), "minio.tls.existingSecret is set, but the chart runs no minio"),
        (
            (*BOTH, "redis.tls.enabled=false"),
            ('redis.tls.existingSecret="x"',),
            "redis.tls.existingSecret is set, but the chart runs no redis with TLS",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_name(
    helm: Helm, values: tuple[str, ...], raw: tuple[str, ...], message: str
) -> None:
    assert message in helm.refusal("umim", *values, json=raw, minimal=False)
