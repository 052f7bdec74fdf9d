"""The Kubernetes client against a small HTTP server: what is sent, what is tried again, what is raised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from umim_operator.kube import (
    ConflictError,
    ForbiddenError,
    Kube,
    KubeError,
    MissingError,
    ThrottledError,
    without_retries,
)


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, list[str]]
    content_type: str
    body: Any


class Answer(NamedTuple):
    status: int
    body: bytes = b"{}"
    headers: dict[str, str] = {}


class Api(ThreadingHTTPServer):
    """Answers with what is queued, then with 200 and an empty object; remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.answers: list[Answer] = []

    def answer(self, status: int, message: str = "", **headers: str) -> None:
        body = json.dumps({"kind": "Status", "message": message}).encode()
        self.answers.append(Answer(status, body, {key.replace("_", "-"): value for key, value in headers.items()}))


class Handler(BaseHTTPRequestHandler):
    server: Api

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(data) if data else None
        content_type = self.headers.get("Content-Type", "")
        self.server.requests.append(Request(self.command, parts.path, parse_qs(parts.query), content_type, body))
        answer = self.server.answers.pop(0) if self.server.answers else Answer(200)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 the names that http.server calls

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time here."""
    found: list[float] = []
    retry = vars(Kube)["_request"].retry
    monkeypatch.setattr(retry, "sleep", found.append)
    return found


@pytest.fixture
def kube(api: Api, pauses: list[float]) -> Iterator[Kube]:
    configuration = client.Configuration(host=f"http://127.0.0.1:{api.server_port}")
    with client.ApiClient(without_retries(configuration)) as made:
        yield Kube(made)
        made.rest_client.pool_manager.clear()


# what is sent


def test_an_object_is_read_by_namespace_and_name(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(200, b'{"kind": "Hospital"}'))
    assert kube.get("Hospital", "hospital-a", "radiology") == {"kind": "Hospital"}
    assert api.requests[0].method == "GET"
    assert api.requests[0].path == "/apis/umim.dev/v1alpha1/namespaces/hospital-a/hospitals/radiology"


def test_objects_are_listed_in_all_namespaces_by_their_labels(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(200, b'{"items": [{"a": 1}, {"a": 2}]}'))
    assert kube.list("Job", labels={"x": "1", "y": "2"}) == [{"a": 1}, {"a": 2}]
    assert api.requests[0].path == "/apis/batch/v1/jobs"
    assert api.requests[0].query == {"labelSelector": ["x=1,y=2"], "limit": ["500"]}


def test_a_long_list_is_read_page_by_page_and_only_as_it_is_used(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(200, b'{"metadata": {"continue": "t"}, "items": [{"a": 1}]}'))
    api.answers.append(Answer(200, b'{"metadata": {}, "items": [{"a": 2}]}'))
    found = kube.each("Job", labels={"x": "1"})
    assert next(found) == {"a": 1}
    assert len(api.requests) == 1, "the next page is not in memory yet"
    assert list(found) == [{"a": 2}]
    assert [request.query.get("continue") for request in api.requests] == [None, ["t"]]
    assert [request.query["labelSelector"] for request in api.requests] == [["x=1"]] * 2


def test_an_object_is_made_unless_it_is_there(kube: Kube, api: Api) -> None:
    body = {"metadata": {"namespace": "ns", "name": "n"}, "spec": {"a": "b"}}
    kube.ensure(body, "Job")
    api.answer(409, "exists")
    kube.ensure(body, "Job")
    assert [(request.method, request.path) for request in api.requests] == [
        ("POST", "/apis/batch/v1/namespaces/ns/jobs")
    ] * 2
    assert api.requests[0].body == body
    api.answer(403, "quota")
    with pytest.raises(ForbiddenError, match="quota"):
        kube.ensure(body, "Job")


def test_fields_of_an_object_are_changed_by_a_merge_patch(kube: Kube, api: Api) -> None:
    kube.merge("FederationRound", "ns", "n", {"spec": {"suspend": True}})
    (request,) = api.requests
    assert (request.method, request.path) == ("PATCH", "/apis/umim.dev/v1alpha1/namespaces/ns/federationrounds/n")
    assert request.content_type == "application/merge-patch+json"
    assert request.body == {"spec": {"suspend": True}}


def test_objects_are_created_in_their_namespace(kube: Kube, api: Api) -> None:
    body = {"metadata": {"namespace": "ns", "generateName": "n."}}
    kube.create(body, "Event")
    assert (api.requests[0].method, api.requests[0].path) == ("POST", "/api/v1/namespaces/ns/events")
    assert api.requests[0].query == {"fieldManager": ["umim-operator"]}
    assert api.requests[0].body == body


def test_a_secret_is_made_by_one_request(kube: Kube, api: Api) -> None:
    body = {"metadata": {"namespace": "ns", "name": "n"}, "stringData": {"a": "b"}}
    kube.recreate(body, "Secret")
    assert [(request.method, request.path) for request in api.requests] == [("POST", "/api/v1/namespaces/ns/secrets")]
    assert api.requests[0].body == body


def test_a_secret_that_is_there_is_replaced_without_being_read(kube: Kube, api: Api) -> None:
    api.answer(409)
    body = {"metadata": {"namespace": "ns", "name": "n"}, "stringData": {"a": "b"}}
    kube.recreate(body, "Secret")
    assert [(request.method, request.path) for request in api.requests] == [
        ("POST", "/api/v1/namespaces/ns/secrets"),
        ("DELETE", "/api/v1/namespaces/ns/secrets/n"),
        ("POST", "/api/v1/namespaces/ns/secrets"),
    ]
    assert api.requests[2].body == body


def seen(status: dict[str, Any] | None) -> dict[str, Any]:
    meta = {"namespace": "ns", "name": "n", "resourceVersion": "7"}
    return {"metadata": meta, "spec": {"a": 1}} | ({"status": status} if status is not None else {})


def test_a_status_write_is_guarded_by_the_version_that_was_seen(kube: Kube, api: Api) -> None:
    kube.replace_status("FederationRound", seen(None), {"phase": "Pending"})
    (request,) = api.requests
    assert request.path == "/apis/umim.dev/v1alpha1/namespaces/ns/federationrounds/n/status"
    assert request.content_type == "application/merge-patch+json"
    assert request.body == {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Pending"}}


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"reason": "x", "phase": "Pending"}, {"phase": "Training"}),
        (
            {"initialization": {"phase": "Backoff", "message": "m", "retryTime": "t"}},
            {"initialization": {"phase": "Running"}},
        ),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"d": 3}}}),
        ({"sites": [{"name": "a", "message": "m"}]}, {"sites": [{"name": "a"}]}),
        ({"a": {"b": 1}}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}),
        ({}, {"a": {"b": 1}}),
        ({"a": 1}, {}),
    ],
)
def test_a_status_write_leaves_nothing_of_the_status_before(
    kube: Kube, api: Api, before: dict[str, Any], after: dict[str, Any]
) -> None:
    kube.replace_status("FederationRound", seen(before), after)
    assert merged(before, api.requests[0].body["status"]) == after


def test_deletion_takes_what_the_object_owns_and_only_this_very_object(kube: Kube, api: Api) -> None:
    kube.delete("FederationRound", "ns", "n", uid="u")
    assert api.requests[0].method == "DELETE"
    assert api.requests[0].body == {"propagationPolicy": "Background", "preconditions": {"uid": "u"}}


def test_deletion_of_what_is_gone_is_no_error(kube: Kube, api: Api) -> None:
    api.answer(404)
    kube.delete("Job", "ns", "n")


def test_all_objects_with_labels_are_deleted_in_one_request(kube: Kube, api: Api) -> None:
    kube.delete_all("Job", "ns", {"x": "1"})
    (request,) = api.requests
    assert (request.method, request.path) == ("DELETE", "/apis/batch/v1/namespaces/ns/jobs")
    assert request.query == {"labelSelector": ["x=1"]}
    assert request.body == {"propagationPolicy": "Foreground"}


# what is raised


@pytest.mark.parametrize(
    ("status", "kind"), [(403, ForbiddenError), (404, MissingError), (409, ConflictError), (422, KubeError)]
)
def test_a_refusal_is_raised_with_the_words_of_the_server(
    kube: Kube, api: Api, status: int, kind: type[KubeError]
) -> None:
    api.answer(status, "no, because")
    with pytest.raises(kind, match="GET /api/v1/namespaces/ns/secrets/n: no, because") as caught:
        kube.get("Secret", "ns", "n")
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert len(api.requests) == 1


def test_an_answer_that_is_no_json_is_shown(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(400, b"<html>bad gateway"))
    with pytest.raises(KubeError, match="<html>bad gateway"):
        kube.get("Secret", "ns", "n")


# what is tried again


def test_a_throttled_request_is_tried_again_after_the_time_that_the_server_asks_for(
    kube: Kube, api: Api, pauses: list[float]
) -> None:
    api.answer(429, "slow down", Retry_After="7")
    api.answers.append(Answer(200, b'{"ok": true}'))
    assert kube.get("Secret", "ns", "n") == {"ok": True}
    assert pauses == [7.0]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_that_is_not_up_is_asked_again(kube: Kube, api: Api, pauses: list[float], status: int) -> None:
    api.answer(status)
    api.answer(status)
    kube.get("Secret", "ns", "n")
    assert len(api.requests) == 3
    assert pauses == pytest.approx([0.2, 0.8])


def test_writes_are_tried_again_too(kube: Kube, api: Api) -> None:
    api.answer(503)
    kube.create({"metadata": {"namespace": "ns"}}, "Event")
    assert [request.method for request in api.requests] == ["POST", "POST"]


def test_tries_end_with_the_last_error(kube: Kube, api: Api, pauses: list[float]) -> None:
    for _ in range(6):
        api.answer(429, "slow down", Retry_After="1")
    with pytest.raises(ThrottledError, match="slow down"):
        kube.get("Secret", "ns", "n")
    assert len(api.requests) == 6
    assert len(pauses) == 5


def test_a_server_that_does_not_answer_is_an_error_with_the_request(pauses: list[float]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as free:
        port = free.server_port
    configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
    with pytest.raises(ThrottledError, match="GET /api/v1/namespaces/ns/secrets/n: the API server does not answer"):
        Kube(client.ApiClient(without_retries(configuration))).get("Secret", "ns", "n")
    assert len(pauses) == 5


def test_the_version_of_the_api_server_is_read_also_from_providers_that_add_to_it(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(200, json.dumps({"major": "1", "minor": "34+"}).encode()))
    assert kube.version() == (1, 34)


def test_the_kinds_of_a_group_that_is_not_there_are_none(kube: Kube, api: Api) -> None:
    api.answer(404, "not found")
    assert kube.served("umim.dev", "v1alpha1") == []
    api.answers.append(Answer(200, json.dumps({"resources": [{"name": "hospitals"}]}).encode()))
    assert kube.served("umim.dev", "v1alpha1") == ["hospitals"]


def test_the_operator_asks_for_its_own_rights(kube: Kube, api: Api) -> None:
    api.answers.append(Answer(201, json.dumps({"status": {"allowed": False}}).encode()))
    assert kube.may("hospital-a", "create", "batch", "jobs") is False
    (asked,) = api.requests
    assert asked.body["spec"]["resourceAttributes"] == {
        "namespace": "hospital-a",
        "verb": "create",
        "group": "batch",
        "resource": "jobs",
    }
