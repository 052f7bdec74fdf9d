"""The Kubernetes API as tests use it: plain dictionaries, one class, the server's own words in errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config

Object = dict[str, Any]

FIELD_MANAGER = "umim-tests"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

_CLUSTER_SCOPED = frozenset(
    {"Namespace", "PersistentVolume", "CustomResourceDefinition", "Node", "ResourceFlavor", "ClusterQueue"}
)
_PATHS = {
    "Namespace": ("/api/v1", "namespaces"),
    "Node": ("/api/v1", "nodes"),
    "PersistentVolume": ("/api/v1", "persistentvolumes"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Service": ("/api/v1", "services"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "Hospital": ("/apis/umim.dev/v1alpha1", "hospitals"),
    "FederationRound": ("/apis/umim.dev/v1alpha1", "federationrounds"),
    "Federation": ("/apis/umim.dev/v1alpha1", "federations"),
    "GlobalModel": ("/apis/umim.dev/v1alpha1", "globalmodels"),
    "ResourceFlavor": ("/apis/kueue.x-k8s.io/v1beta2", "resourceflavors"),
    "ClusterQueue": ("/apis/kueue.x-k8s.io/v1beta2", "clusterqueues"),
    "LocalQueue": ("/apis/kueue.x-k8s.io/v1beta2", "localqueues"),
    "Workload": ("/apis/kueue.x-k8s.io/v1beta2", "workloads"),
}


class ApiError(Exception):
    """The API server refused. ``code`` is the HTTP status, the text is the server's message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Api:
    """Reads and writes objects as the administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        self._api = client.ApiClient(settings)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return one object, or None where there is none."""
        try:
            return self.get(kind, namespace, name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Return one object. Raises ApiError with code 404 where there is none."""
        return self._request("GET", _path(kind, namespace, name))

    def select(self, kind: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return all objects with these labels, in one namespace or in all."""
        query = [("labelSelector", _selector(labels))] if labels else []
        found: list[Object] = self._request("GET", _path(kind, namespace), query)["items"]
        return found

    def create(self, body: Object, *, dry_run: bool = False, validation: str = "Strict") -> Object:
        """Create an object; with dry_run, only let the server check it. Unknown fields are an error."""
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", validation), *_dry(dry_run)]
        meta = body["metadata"]
        return self._request("POST", _path(body["kind"], meta.get("namespace", "")), query, body)

    def apply(self, body: Object, *, dry_run: bool = False) -> Object:
        """Create or update an object by server-side apply."""
        meta = body["metadata"]
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), ("fieldValidation", "Strict"), *_dry(dry_run)]
        path = _path(body["kind"], meta.get("namespace", ""), meta["name"])
        return self._request("PATCH", path, query, body, APPLY)

    def patch(self, kind: str, namespace: str, name: str, patch: Object, subresource: str = "") -> Object:
        """Change an object by a merge patch."""
        path = _path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        return self._request("PATCH", path, query, patch, MERGE)

    def delete(self, kind: str, namespace: str, name: str, *, now: bool = False) -> None:
        """Delete an object and what it owns; no error where there is none. now: without the grace period."""
        body: Object = {"propagationPolicy": "Background"}
        if now:
            body["gracePeriodSeconds"] = 0
        try:
            self._request("DELETE", _path(kind, namespace, name), [], body)
        except ApiError as error:
            if error.code != 404:
                raise

    def evict(self, namespace: str, pod: str) -> None:
        """Evict a Pod, as a drain of its node does."""
        meta = {"name": pod, "namespace": namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        self._request("POST", _path("Pod", namespace, pod) + "/eviction", [], body)

    def log(self, namespace: str, pod: str, lines: int = 30) -> str:
        """Return the end of a Pod's log, or why there is none. For failure messages."""
        try:
            return self._raw("GET", _path("Pod", namespace, pod) + "/log", [("tailLines", str(lines))]).decode()
        except ApiError as error:
            return f"(no log: {error})"

    def table(self, kind: str, namespace: str) -> Object:
        """Return the objects as the table that ``kubectl get`` prints."""
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        data = self._raw("GET", _path(kind, namespace), [("includeObject", "None")], accept=accept)
        found: Object = json.loads(data)
        return found

    def _request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        found: Object = json.loads(self._raw(method, path, query or [], body, content_type))
        return found

    def _raw(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        body: Object | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        headers = {"Accept": accept, "Content-Type": content_type}
        request = self._api.param_serialize(
            method, path, query_params=query, header_params=headers, auth_settings=["BearerToken"]
        )
        response = self._api.call_api(*request[:3], body, _request_timeout=(5, 30))
        data: bytes = response.read()  # type: ignore[no-untyped-call]
        if not 200 <= response.status <= 299:
            raise ApiError(response.status, _message(data))
        return data


def _path(kind: str, namespace: str, name: str = "") -> str:
    prefix, plural = _PATHS[kind]
    scope = f"/namespaces/{namespace}" if namespace and kind not in _CLUSTER_SCOPED else ""
    return f"{prefix}{scope}/{plural}" + (f"/{name}" if name else "")


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _dry(dry_run: bool) -> list[tuple[str, str]]:
    return [("dryRun", "All")] if dry_run else []


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:500].decode(errors="replace")
