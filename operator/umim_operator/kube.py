"""The Kubernetes API, reduced to what the operator does with it. The only user of the Kubernetes client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import tenacity
import urllib3
from kubernetes import client, config

from umim.contract import FIELD_MANAGER

Object = dict[str, Any]

TIMEOUT_SECONDS = (5, 30)
PAGE = 500
"""Objects in one answer to a list."""
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"

REFUSALS = frozenset({403, 404, 422})
"""HTTP statuses with which the API server refuses to create an object for a reason that people must mend."""

_PATHS = {
    "Job": ("/apis/batch/v1", "jobs"),
    "Secret": ("/api/v1", "secrets"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "Hospital": ("/apis/umim.dev/v1alpha1", "hospitals"),
    "FederationRound": ("/apis/umim.dev/v1alpha1", "federationrounds"),
    "Federation": ("/apis/umim.dev/v1alpha1", "federations"),
    "Workload": ("/apis/kueue.x-k8s.io/v1beta2", "workloads"),
    "GlobalModel": ("/apis/umim.dev/v1alpha1", "globalmodels"),
}


class KubeError(Exception):
    """The API server refused a request. ``status`` is the HTTP status, 0 when it did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ThrottledError(KubeError):
    """The API server asks to come back later (429) or is not up (5xx, no answer)."""

    def __init__(self, status: int, message: str, retry_after: float) -> None:
        super().__init__(status, message)
        self.retry_after = retry_after


class MissingError(KubeError):
    """The object does not exist."""


class ConflictError(KubeError):
    """The object was changed in between, or exists already."""


class ForbiddenError(KubeError):
    """The operator has no right to do this there."""


def load_client(connections: int) -> client.ApiClient:
    """Return a client from the Pod's service account, or from KUBECONFIG outside a cluster.

    connections: how many stay open; as many as there are threads that ask.
    """
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    configuration = without_retries(client.Configuration.get_default_copy())
    configuration.connection_pool_maxsize = connections
    return client.ApiClient(configuration)


def without_retries(configuration: client.Configuration) -> client.Configuration:
    """Return the configuration with urllib3's own retries off: ``Kube`` alone decides what is tried again."""
    configuration.retries = False
    return configuration


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, ThrottledError) else 0.0
    return max(asked, 0.2 * state.attempt_number**2)


class Kube:
    """Reads and writes objects as plain dictionaries. Waits and tries again when the API server throttles."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    def version(self) -> tuple[int, int]:
        """Return the API server's version, such as (1, 34)."""
        found = self._request("GET", "/version")
        # Some providers write a minor version such as 30+.
        return int(found["major"]), int(re.sub(r"\D.*", "", found["minor"]))

    def served(self, group: str, version: str) -> list[str]:
        """Return the plural names of the kinds that the API server knows in a group and version."""
        try:
            found = self._request("GET", f"/apis/{group}/{version}")
        except MissingError:
            return []
        return [item["name"] for item in found["resources"]]

    def may(self, namespace: str, verb: str, group: str, resource: str) -> bool:
        """Say whether the operator's own account may do something in a namespace."""
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", [], body)
        return bool(answer["status"]["allowed"])

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Return one object. Raises MissingError."""
        return self._request("GET", _path(kind, namespace, name))

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Return all objects with these labels, in one namespace or in all."""
        return list(self.each(kind, namespace, labels))

    def each(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Object]:
        """Return all objects with these labels one after the other. Only one page of them is held in memory."""
        query = [("limit", str(PAGE))]
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items())))
        more = ""
        while True:
            page = self._request("GET", _path(kind, namespace), [*query, ("continue", more)] if more else query)
            yield from page.get("items", [])
            more = page.get("metadata", {}).get("continue", "")
            if not more:
                return

    def create(self, body: Object, kind: str) -> Object:
        """Create an object. Raises ConflictError when one of that name exists."""
        return self._request(
            "POST", _path(kind, body["metadata"]["namespace"]), [("fieldManager", FIELD_MANAGER)], body
        )

    def merge(self, kind: str, namespace: str, name: str, change: Object) -> None:
        """Change fields of an object by a merge patch. Raises MissingError."""
        query = [("fieldManager", FIELD_MANAGER)]
        self._request("PATCH", _path(kind, namespace, name), query, change, MERGE_PATCH)

    def replace_status(self, kind: str, seen: Object, status: Object) -> Object:
        """Write the whole status, unless the object changed since it was seen. Raises ConflictError."""
        meta = seen["metadata"]
        change = _merge_patch(seen.get("status") or {}, status)
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": change}
        path = _path(kind, meta["namespace"], meta["name"]) + "/status"
        return self._request("PATCH", path, [("fieldManager", FIELD_MANAGER)], body, MERGE_PATCH)

    def delete(self, kind: str, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Delete an object and, in the background, what it owns. No error where there is none."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._request("DELETE", _path(kind, namespace, name), [], body)
        except MissingError:
            return

    def ensure(self, body: Object, kind: str) -> None:
        """Create an object, unless one of its name exists."""
        with suppress(ConflictError):
            self.create(body, kind)

    def recreate(self, body: Object, kind: str) -> None:
        """Create an object in place of one of the same name, without any right that would read the old one."""
        meta = body["metadata"]
        try:
            self.create(body, kind)
        except ConflictError:  # a launch that was cut off has left one
            self.delete(kind, meta["namespace"], meta["name"])
            self.create(body, kind)

    def delete_all(self, kind: str, namespace: str, labels: Mapping[str, str]) -> None:
        """Delete all objects with these labels in a namespace; Jobs stay visible until their Pods are gone."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items()))]
        self._request("DELETE", _path(kind, namespace), query, {"propagationPolicy": "Foreground"})

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ThrottledError),
        stop=tenacity.stop_after_attempt(6),
        wait=_wait,
        reraise=True,
    )
    def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = JSON,
    ) -> Object:
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={"Accept": JSON, "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        method, url, headers = request[:3]
        try:
            # The client serialises the body itself, for every JSON and YAML content type.
            response = self._api.call_api(method, url, headers, body, _request_timeout=TIMEOUT_SECONDS)
            data = response.read()
        except (urllib3.exceptions.HTTPError, client.ApiException) as error:
            raise ThrottledError(0, f"{method} {path}: the API server does not answer ({error})", 0.0) from error
        if 200 <= response.status <= 299:
            parsed: Object = json.loads(data)
            return parsed
        raise _error(response.status, f"{method} {path}: {_message(data)}", response.headers.get("Retry-After"))


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    prefix, plural = _PATHS[kind]
    scope = f"/namespaces/{namespace}" if namespace is not None else ""
    return f"{prefix}{scope}/{plural}" + (f"/{name}" if name is not None else "")


def _merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """Return the merge patch that leaves exactly ``after``: it names with null what vanishes, at every depth."""
    patch: Object = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        patch[key] = _merge_patch(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return patch


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message", ""))
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace")


def _error(status: int, message: str, retry_after: str | None) -> KubeError:
    if status == 429 or status >= 500:
        seconds = float(retry_after) if retry_after is not None and retry_after.isdigit() else 0.0
        return ThrottledError(status, message, seconds)
    kinds: dict[int, type[KubeError]] = {403: ForbiddenError, 404: MissingError, 409: ConflictError}
    return kinds.get(status, KubeError)(status, message)
