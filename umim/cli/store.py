"""Finds the object store for a person: from the environment, or from the cluster's operator."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from umim import contract
from umim.artifacts.minio import MinioStore
from umim.artifacts.store import ObjectStore
from umim.cli.forward import forwarded
from umim.cli.kube import Cluster
from umim.settings import StoreSettings

_SERVICE = re.compile(r"^(?P<service>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)\.svc(\.[a-z0-9.-]+)?$")
_DEFAULT_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


def service_of(endpoint: str) -> tuple[str, str, int] | None:
    """Return service, namespace and port of an endpoint inside the cluster, or None for another one."""
    parts = urlsplit(endpoint)
    match = _SERVICE.match(parts.hostname or "")
    if match is None:
        return None
    return match["service"], match["namespace"], parts.port or _DEFAULT_PORTS[parts.scheme]


@contextmanager
def reachable(cluster: Cluster, endpoint: str) -> Iterator[tuple[str, str | None]]:
    """Yield the endpoint as it is reached from here while the block runs, and the name its certificate must hold.

    A Service inside the cluster is reached through a port of the Kubernetes API: with TLS the certificate has to hold
    for the Service all the same. None: for the endpoint's own name.
    """
    service = service_of(endpoint)
    if service is None:
        yield endpoint, None
        return
    name, namespace, port = service
    pod, pod_port = cluster.endpoint_pod(namespace, name, port)
    parts = urlsplit(endpoint)
    with forwarded(cluster.api, namespace, pod, pod_port) as local:
        yield parts._replace(netloc=f"127.0.0.1:{local}").geturl(), parts.hostname


@contextmanager
def open_store(
    cluster: Cluster, env: Mapping[str, str], endpoint: str | None, operator_namespace: str
) -> Iterator[ObjectStore]:
    """Connect to the object store while the block runs.

    Variables UMIM_S3_* that are set win; what is missing comes from the operator's Deployment and Secret, read with
    the user's own rights. A Service inside the cluster is reached through a port of the Kubernetes API.
    """
    given = {name: value for name, value in env.items() if name.startswith("UMIM_S3_") and value}
    if endpoint:
        given[contract.ENV_S3_ENDPOINT] = endpoint
    if contract.ENV_S3_ACCESS_KEY in given and contract.ENV_S3_ENDPOINT in given and contract.ENV_S3_BUCKET in given:
        variables = given
    else:
        variables = {**cluster.operator_environment(operator_namespace), **given}
    settings = StoreSettings.from_env(variables)
    with reachable(cluster, settings.endpoint) as (address, server_name):
        yield MinioStore.from_settings(settings.model_copy(update={"endpoint": address, "server_name": server_name}))
