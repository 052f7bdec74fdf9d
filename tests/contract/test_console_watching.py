"""The console's watcher against an API server that misbehaves: pages, forgotten versions, refusals, silence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from tests.unit.cli.samples import hospital_object
from umim.console.cluster import Cache, Kind
from umim.console.watching import Watcher

Answer = tuple[int, list[dict[str, Any]] | dict[str, Any]]
SECONDS = 15.0


class Script:
    """What the server answers, request by request; the last answer stays. Notes what it was asked."""

    def __init__(self) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def answer(self, query: dict[str, str]) -> Answer:
        with self._lock:
            self.asked.append(query)
            answers = self.watches if query.get("watch", "").lower() == "true" else self.lists
            return answers.pop(0) if len(answers) > 1 else answers[0]


class Noting(Cache):
    """Notes every failure that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[str] = []

    def failed(self, kind: Kind, now: datetime, message: str) -> None:
        self.failures.append(message)
        super().failed(kind, now, message)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            status, body = script.answer(query)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            for line in body if isinstance(body, list) else [body]:
                self.wfile.write(json.dumps(line).encode() + b"\n")
            if isinstance(body, list):
                time.sleep(0.2)  # a watch stays open for a while

        def log_message(self, format: str, *args: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def follow(server: ThreadingHTTPServer) -> Iterator[Callable[[], Noting]]:
    """Starts a watcher of the Hospitals and gives its cache."""
    started: list[tuple[Watcher, threading.Thread]] = []

    def start() -> Noting:
        settings = client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")
        settings.retries = False
        cache = Noting()
        watcher = Watcher(client.ApiClient(settings), "hospitals", cache, lambda: datetime(2026, 11, 24, tzinfo=UTC))
        thread = threading.Thread(target=watcher.run, daemon=True)
        thread.start()
        started.append((watcher, thread))
        return cache

    yield start
    for watcher, thread in started:
        watcher.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "has not come within 15 s"
        time.sleep(0.02)


def hospital(letter: str, version: str) -> dict[str, Any]:
    body = hospital_object(letter, "x")
    body["metadata"]["resourceVersion"] = version
    return body


def listed(*letters: str, version: str = "10", more: str = "") -> Answer:
    items = [hospital(letter, version) for letter in letters]
    return 200, {"kind": "HospitalList", "metadata": {"resourceVersion": version, "continue": more}, "items": items}


def event(kind: str, letter: str, version: str) -> dict[str, Any]:
    return {"type": kind, "object": hospital(letter, version)}


def failure(code: int) -> dict[str, Any]:
    return {"kind": "Status", "metadata": {}, "status": "Failure", "code": code, "reason": "x", "message": "too old"}


def names(cache: Cache) -> list[str]:
    return [one.namespace for one in cache.snapshot().hospitals]


def test_a_list_of_many_pages_is_read_to_its_end(script: Script, follow: Callable[[], Noting]) -> None:
    script.lists = [listed("a", "b", more="token"), listed("c")]
    script.watches = [(200, [])]
    cache = follow()
    until(lambda: names(cache) == ["hospital-a", "hospital-b", "hospital-c"])
    assert [one.get("continue") for one in script.asked[:2]] == [None, "token"]
    assert all(int(one["limit"]) <= 500 for one in script.asked[:2])


def test_a_watch_goes_on_from_the_newest_version_and_lists_no_more(
    script: Script, follow: Callable[[], Noting]
) -> None:
    script.lists = [listed("a")]
    bookmark = {"type": "BOOKMARK", "object": {"kind": "Hospital", "metadata": {"resourceVersion": "30"}}}
    script.watches = [
        (200, [event("ADDED", "b", "11"), event("DELETED", "a", "12"), event("MODIFIED", "b", "13"), bookmark]),
        (200, []),
    ]
    cache = follow()
    until(lambda: names(cache) == ["hospital-b"])
    until(lambda: len(script.asked) >= 4)
    assert [one.get("resourceVersion") for one in script.asked[1:4]] == ["10", "30", "30"]


@pytest.mark.parametrize("gone", [(200, [{"type": "ERROR", "object": failure(410)}]), (410, failure(410))])
def test_a_version_that_the_server_forgot_leads_back_to_the_list_and_is_no_failure(
    script: Script, follow: Callable[[], Noting], gone: Answer
) -> None:
    script.lists = [listed("a"), listed("b", version="50")]
    script.watches = [gone, (200, [])]
    cache = follow()
    until(lambda: names(cache) == ["hospital-b"])
    assert cache.failures == []


def test_a_refusal_is_told_and_what_was_known_stays(script: Script, follow: Callable[[], Noting]) -> None:
    script.lists = [listed("a"), (403, failure(403))]
    script.watches = [(500, failure(500))]
    cache = follow()
    until(lambda: "does not let the console read" in cache.snapshot().problem)
    assert names(cache) == ["hospital-a"]
    assert cache.snapshot().stale_since == datetime(2026, 11, 24, tzinfo=UTC)


def test_it_recovers_when_the_server_answers_again(script: Script, follow: Callable[[], Noting]) -> None:
    script.lists = [(503, failure(503)), listed("a")]
    script.watches = [(200, [])]
    cache = follow()
    until(lambda: names(cache) == ["hospital-a"])
    assert cache.snapshot().stale_since is None


def test_a_server_that_is_silent_is_not_asked_without_a_pause(
    script: Script, server: ThreadingHTTPServer, follow: Callable[[], Noting]
) -> None:
    script.lists = [(500, failure(500))]
    follow()
    until(lambda: len(script.asked) >= 2)
    time.sleep(0.5)
    assert len(script.asked) <= 2
