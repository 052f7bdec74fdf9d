"""Endpoints inside the cluster are told from others, and what the operator knows of them is read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from umim.cli import store
from umim.cli.kube import Cluster
from umim.cli.store import reachable, service_of


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://umim-minio.umim-system.svc:9000", ("umim-minio", "umim-system", 9000)),
        ("http://umim-minio.umim-system.svc.cluster.local:9000", ("umim-minio", "umim-system", 9000)),
        ("http://store.prod.svc", ("store", "prod", 80)),
        ("https://umim-minio.umim-system.svc:9000", ("umim-minio", "umim-system", 9000)),
        ("https://store.prod.svc", ("store", "prod", 443)),
        ("rediss://umim-redis.umim-system.svc/0", ("umim-redis", "umim-system", 6379)),
        ("https://s3.hospital.example:9000", None),
        ("http://10.96.0.7:9000", None),
        ("http://127.0.0.1:9000", None),
    ],
)
def test_a_service_is_recognised_by_its_name(endpoint: str, expected: tuple[str, str, int] | None) -> None:
    assert service_of(endpoint) == expected


class Served(Cluster):
    """A cluster with one Service."""

    def endpoint_pod(self, namespace: str, service: str, port: int) -> tuple[str, int]:
        return f"{namespace}-{service}", port


@pytest.fixture
def forwarding(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def forwarded(_api: Any, _namespace: str, _pod: str, _port: int) -> Iterator[int]:
        yield 12345

    monkeypatch.setattr(store, "forwarded", forwarded)


@pytest.mark.usefixtures("forwarding")
@pytest.mark.parametrize(
    ("endpoint", "address", "name"),
    [
        ("https://umim-minio.sys.svc:9000", "https://127.0.0.1:12345", "umim-minio.sys.svc"),
        ("rediss://umim-redis.sys.svc:6379/0", "rediss://127.0.0.1:12345/0", "umim-redis.sys.svc"),
        ("https://s3.example:9000", "https://s3.example:9000", None),
    ],
)
def test_a_forwarded_port_keeps_scheme_and_database_and_the_name_to_verify(
    endpoint: str, address: str, name: str | None
) -> None:
    with reachable(Served(client.ApiClient(), "default"), endpoint) as found:
        assert found == (address, name)


def test_the_operators_variables_come_from_values_secrets_and_config_maps() -> None:
    def variable(name: str, value: str | None = None, **source: Any) -> client.V1EnvVar:
        return client.V1EnvVar(name=name, value=value, value_from=client.V1EnvVarSource(**source) if source else None)

    key = client.V1SecretKeySelector(name="keys", key="accessKey")
    ca = client.V1ConfigMapKeySelector(name="trust", key="ca.crt")
    env = [
        variable("UMIM_S3_BUCKET", "umim"),
        variable("UMIM_S3_ACCESS_KEY", secret_key_ref=key),
        variable("UMIM_S3_CA", config_map_key_ref=ca),
        variable("OTHER", "x"),
    ]
    container = SimpleNamespace(env=env)
    template = SimpleNamespace(spec=SimpleNamespace(containers=[container]))
    operator = SimpleNamespace(spec=SimpleNamespace(template=template))
    cluster = Cluster(client.ApiClient(), "default")
    cluster._apps = SimpleNamespace(list_namespaced_deployment=lambda *_, **__: SimpleNamespace(items=[operator]))
    secret = SimpleNamespace(data={"accessKey": base64.b64encode(b"operator").decode()})
    cluster._core = SimpleNamespace(
        read_namespaced_secret=lambda *_, **__: secret,
        read_namespaced_config_map=lambda *_, **__: SimpleNamespace(data={"ca.crt": "PEM"}),
    )
    assert cluster.operator_environment("umim-system") == {
        "UMIM_S3_BUCKET": "umim",
        "UMIM_S3_ACCESS_KEY": "operator",
        "UMIM_S3_CA": "PEM",
    }
