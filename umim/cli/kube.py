"""The Kubernetes API as the command line tool uses it. Errors are turned into sentences here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from umim.api.base import GROUP, VERSION
from umim.cli.resources import (
    Federation,
    Hospital,
    Model,
    Round,
    parse_federation,
    parse_hospital,
    parse_model,
    parse_round,
)
from umim.errors import AccessDeniedError, ConfigError, NotFoundError, UmimError

TIMEOUT_SECONDS = (5, 30)  # connect, read
OPERATOR_SELECTOR = "app.kubernetes.io/name=umim,app.kubernetes.io/component=operator"


class ClusterError(UmimError):
    """The Kubernetes API does not answer, or answers with an error that is not the user's."""

    exit_code: ClassVar[int] = 69  # EX_UNAVAILABLE


class Cluster:
    """The resources of one cluster, as the user of the kubeconfig may see them."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        """Namespace of the kubeconfig's context."""
        # Any: the client types every field as optional, also those that the API server always fills in.
        self._custom: Any = client.CustomObjectsApi(api)

    # Made on demand: the import of their classes takes half a second.
    @cached_property
    def _core(self) -> Any:
        return client.CoreV1Api(self.api)

    @cached_property
    def _apps(self) -> Any:
        return client.AppsV1Api(self.api)

    @cached_property
    def _discovery(self) -> Any:
        return client.DiscoveryV1Api(self.api)

    @classmethod
    def connect(cls, context: str | None = None, kubeconfig: str | None = None, retries: int = 1) -> Cluster:
        """Read a kubeconfig; default: $KUBECONFIG or ~/.kube/config. Raises ConfigError when none fits."""
        try:
            settings = client.Configuration()
            config.load_kube_config(  # type: ignore[no-untyped-call]
                kubeconfig, context, client_configuration=settings
            )
            contexts, active = config.list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise ConfigError(
                f"no usable kubeconfig ({error}): set KUBECONFIG to a file that kubectl can use"
            ) from error
        settings.retries = urllib3.Retry(retries)  # not a number: the client takes 0 for its default, 3
        chosen = next((one for one in contexts if one["name"] == context), active)
        return cls(client.ApiClient(settings), chosen["context"].get("namespace", "default"))

    def rounds(self, namespace: str | None) -> list[Round]:
        """Return the FederationRounds of a namespace, or of all, sorted by namespace and name."""
        return [parse_round(one) for one in self._list("federationrounds", namespace)]

    def round(self, namespace: str, name: str) -> Round:
        """Return one FederationRound. Raises NotFoundError."""
        return parse_round(self._get("federationrounds", namespace, name))

    def federations(self, namespace: str | None) -> list[Federation]:
        """Return the Federations of a namespace, or of all, sorted by namespace and name."""
        return [parse_federation(one) for one in self._list("federations", namespace)]

    def federation(self, namespace: str, name: str) -> Federation:
        """Return one Federation. Raises NotFoundError."""
        return parse_federation(self._get("federations", namespace, name))

    def hospitals(self, namespace: str | None) -> list[Hospital]:
        """Return the Hospitals of a namespace, or of all, sorted by namespace and name."""
        return [parse_hospital(one) for one in self._list("hospitals", namespace)]

    def hospital(self, namespace: str, name: str) -> Hospital:
        """Return one Hospital. Raises NotFoundError."""
        return parse_hospital(self._get("hospitals", namespace, name))

    def models(self, namespace: str | None) -> list[Model]:
        """Return the GlobalModels of a namespace, or of all, sorted by namespace and name."""
        return [parse_model(one) for one in self._list("globalmodels", namespace)]

    def model(self, namespace: str, name: str) -> Model:
        """Return one GlobalModel. Raises NotFoundError."""
        return parse_model(self._get("globalmodels", namespace, name))

    def names(self, plural: str, namespace: str | None) -> list[str]:
        """Return the names of the resources of a kind in a namespace. Default: that of the kubeconfig's context."""
        return self._names(f"/apis/{GROUP}/{VERSION}/namespaces/{namespace or self.namespace}/{plural}")

    def namespaces(self) -> list[str]:
        """Return the names of all namespaces."""
        return self._names("/api/v1/namespaces")

    def _names(self, path: str) -> list[str]:
        # Without the objects, and without the client's classes for them, whose import takes longer than the answer.
        headers = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
        request = self.api.param_serialize("GET", path, header_params=headers, auth_settings=["BearerToken"])
        with _translated(path):
            response = self.api.call_api(*request, _request_timeout=TIMEOUT_SECONDS)
            data: bytes = response.read()  # type: ignore[no-untyped-call]
        if response.status != 200:
            raise _by_status(response.status, path, response.reason)
        return sorted(one["metadata"]["name"] for one in json.loads(data)["items"])

    def operator_environment(self, namespace: str, prefix: str = "UMIM_S3_") -> dict[str, str]:
        """Return the operator's variables with a prefix.

        Those from Secrets and ConfigMaps are read with the user's own rights.

        Raises NotFoundError when no operator runs in the namespace, AccessDeniedError when the user may not read.
        """
        found = self._operators(namespace)
        if not found:
            raise NotFoundError(
                f"namespace {namespace} has no UMIM operator: name its namespace with --operator-namespace, "
                "or the store with --endpoint and the UMIM_S3_* variables"
            )
        variables = found[0].spec.template.spec.containers[0].env or []
        return {one.name: self._value(namespace, one) for one in variables if one.name.startswith(prefix)}

    def operator_replicas(self, namespace: str) -> tuple[int, int] | None:
        """Return how many Pods of the operator are ready and how many are wanted, or None where there is none."""
        found = self._operators(namespace)
        return (found[0].status.ready_replicas or 0, found[0].spec.replicas) if found else None

    def operator_account(self, namespace: str) -> str | None:
        """Return the name of the operator's ServiceAccount, or None where there is no operator."""
        found = self._operators(namespace)
        return str(found[0].spec.template.spec.service_account_name) if found else None

    def server_version(self) -> tuple[int, int]:
        """Return the API server's version, such as (1, 34)."""
        with _translated("the version of the API server"):
            found: Any = client.VersionApi(self.api).get_code(_request_timeout=TIMEOUT_SECONDS)
        # Some providers write a minor version such as 30+.
        return int(found.major), int(re.sub(r"\D.*", "", found.minor))

    def served_resources(self) -> list[str]:
        """Return the plural names of the kinds that the API server knows in this tool's group and version."""
        try:
            with _translated(f"the resources of {GROUP}/{VERSION}"):
                found = self._custom.get_api_resources(GROUP, VERSION, _request_timeout=TIMEOUT_SECONDS)
        except NotFoundError:
            return []
        return [one.name for one in found.resources]

    def may(self, namespace: str, verb: str, group: str, resource: str, user: str | None = None) -> bool:
        """Return whether the caller, or another user, may do something in a namespace.

        To ask for another user one needs ``create`` on ``subjectaccessreviews``: raises AccessDeniedError without.
        """
        attributes = client.V1ResourceAttributes(namespace=namespace, verb=verb, group=group, resource=resource)
        reviews: Any = client.AuthorizationV1Api(self.api)
        with _translated(f"the rights of {user or 'yourself'}"):
            if user is None:
                own = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
                answer = reviews.create_self_subject_access_review(
                    client.V1SelfSubjectAccessReview(spec=own), _request_timeout=TIMEOUT_SECONDS
                )
            else:
                spec = client.V1SubjectAccessReviewSpec(user=user, resource_attributes=attributes)
                answer = reviews.create_subject_access_review(
                    client.V1SubjectAccessReview(spec=spec), _request_timeout=TIMEOUT_SECONDS
                )
        return bool(answer.status.allowed)

    def quotas(self, namespace: str) -> list[tuple[str, dict[str, str], dict[str, str]]]:
        """Return name, hard limits and what is used of each ResourceQuota of a namespace."""
        with _translated(f"the ResourceQuotas of namespace {namespace}"):
            found = self._core.list_namespaced_resource_quota(namespace, _request_timeout=TIMEOUT_SECONDS).items
        return [(one.metadata.name, dict(one.spec.hard or {}), dict(one.status.used or {})) for one in found]

    def claims(self, namespace: str) -> dict[str, str]:
        """Return the phase of each PersistentVolumeClaim of a namespace by name."""
        with _translated(f"the PersistentVolumeClaims of namespace {namespace}"):
            found = self._core.list_namespaced_persistent_volume_claim(
                namespace, _request_timeout=TIMEOUT_SECONDS
            ).items
        return {one.metadata.name: one.status.phase for one in found}

    def allocatable(self, resource: str) -> dict[str, int]:
        """Return how much of a counted resource, such as GPUs, each node offers; without the nodes that have none."""
        with _translated("the nodes"):
            found = self._core.list_node(_request_timeout=TIMEOUT_SECONDS).items
        offered = {one.metadata.name: int((one.status.allocatable or {}).get(resource, "0")) for one in found}
        return {name: number for name, number in offered.items() if number}

    def _operators(self, namespace: str) -> list[Any]:
        with _translated(f"the operator in namespace {namespace}"):
            found: list[Any] = self._apps.list_namespaced_deployment(
                namespace, label_selector=OPERATOR_SELECTOR, _request_timeout=TIMEOUT_SECONDS
            ).items
        return found

    def endpoint_pod(self, namespace: str, service: str, port: int) -> tuple[str, int]:
        """Return a ready Pod behind a Service's port, and the port in the Pod. Raises NotFoundError."""
        with _translated(f"Service {namespace}/{service}"):
            ports = self._core.read_namespaced_service(service, namespace, _request_timeout=TIMEOUT_SECONDS).spec.ports
            slices = self._discovery.list_namespaced_endpoint_slice(
                namespace, label_selector=f"kubernetes.io/service-name={service}", _request_timeout=TIMEOUT_SECONDS
            ).items
        names = {one.name for one in ports if one.port == port}
        for part in slices:
            targets = [one.port for one in part.ports or [] if one.name in names]
            pods = [one.target_ref.name for one in part.endpoints or [] if one.conditions.ready and one.target_ref]
            if targets and pods:
                return pods[0], targets[0]
        raise NotFoundError(f"Service {namespace}/{service} has no ready Pod behind port {port}: is the store running?")

    def _value(self, namespace: str, variable: Any) -> str:
        if variable.value_from is None:
            return str(variable.value or "")
        public = variable.value_from.config_map_key_ref
        if public is not None:
            with _translated(f"ConfigMap {namespace}/{public.name} with the CA of {variable.name}"):
                held = self._core.read_namespaced_config_map(public.name, namespace, _request_timeout=TIMEOUT_SECONDS)
            return str((held.data or {}).get(public.key, ""))
        source = variable.value_from.secret_key_ref
        with _translated(f"Secret {namespace}/{source.name} with the store's credentials"):
            data = self._core.read_namespaced_secret(source.name, namespace, _request_timeout=TIMEOUT_SECONDS).data
        return base64.b64decode((data or {}).get(source.key, "")).decode()

    def _list(self, plural: str, namespace: str | None) -> list[Mapping[str, Any]]:
        with _translated(f"the list of {plural}.{GROUP}"):
            if namespace is None:
                found = self._custom.list_cluster_custom_object(
                    GROUP, VERSION, plural, _request_timeout=TIMEOUT_SECONDS
                )
            else:
                found = self._custom.list_namespaced_custom_object(
                    GROUP, VERSION, namespace, plural, _request_timeout=TIMEOUT_SECONDS
                )
        items: list[Mapping[str, Any]] = found["items"]
        return sorted(items, key=lambda one: (one["metadata"]["namespace"], one["metadata"]["name"]))

    def _get(self, plural: str, namespace: str, name: str) -> Mapping[str, Any]:
        with _translated(f"{plural}.{GROUP} {namespace}/{name}"):
            found: Mapping[str, Any] = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, namespace, plural, name, _request_timeout=TIMEOUT_SECONDS
            )
        return found


def contexts() -> list[str]:
    """Return the names of the kubeconfig's contexts."""
    found, _ = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    return [one["name"] for one in found]


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the client's errors about ``what`` into those of ``umim.errors``."""
    try:
        yield
    except ApiException as error:
        raise _by_status(error.status, what, error.reason) from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(
            f"the Kubernetes API does not answer ({type(error).__name__}): check the server in your kubeconfig"
        ) from error


def _by_status(status: int | None, what: str, reason: str | None) -> UmimError:
    if status == 404:
        return NotFoundError(f"{what} does not exist: check name and namespace, and that charts/umim is installed")
    if status in (401, 403):
        return AccessDeniedError(f"you may not read {what} ({reason}): ask for a Role that allows it")
    return ClusterError(f"the Kubernetes API answered {status} ({reason}) for {what}: try again")
