"""The console's questions to Prometheus over HTTP, against servers that answer, refuse, are silent or endless."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from umim.console.prometheus import LOSS, MOST_BYTES, POINTS, SILENT, Prometheus

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
END = START + timedelta(minutes=30)
SITES = ["hospital-a.neuro", "hospital-b.thorax"]
Asked = list[dict[str, str]]


@contextmanager
def answering(reply: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, Asked]]:
    """Serve replies; give the address and what was asked."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked.append({"path": parts.path, **{key: values[0] for key, values in parse_qs(parts.query).items()}})
            reply(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def two_points(handler: BaseHTTPRequestHandler) -> None:
    values = [[START.timestamp() + 60, "0.9"], [START.timestamp() + 120, "0.5"]]
    result = [{"metric": {"umim_site": SITES[0]}, "values": values}]
    body = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    send(handler, 200, json.dumps(body).encode())


def test_a_curve_is_asked_for_in_few_points_over_the_time_of_the_round() -> None:
    with answering(two_points) as (url, asked):
        answer = Prometheus(url).curve(LOSS, SITES, START, END)
    assert [one.points for one in answer.series] == [((1.0, 0.9), (2.0, 0.5))]
    question = asked[0]
    assert question["path"] == "/api/v1/query_range"
    assert (float(question["start"]), float(question["end"])) == (START.timestamp(), END.timestamp())
    assert (END - START).total_seconds() / float(question["step"]) <= POINTS


def test_many_viewers_cost_one_question_until_the_answer_is_old() -> None:
    now = [100.0]
    with answering(two_points) as (url, asked):
        prometheus = Prometheus(url, lambda: now[0])
        threads = [threading.Thread(target=prometheus.curve, args=(LOSS, SITES, START, END)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(asked) == 1
        now[0] += 11
        prometheus.curve(LOSS, SITES, START, END)
        assert len(asked) == 2


def test_no_answer_is_a_sentence_and_is_not_waited_for_again_at_once() -> None:
    now = [100.0]
    with answering(two_points) as (url, asked):
        pass  # closed again: nothing listens there
    prometheus = Prometheus(url, lambda: now[0])
    assert prometheus.curve(LOSS, SITES, START, END).problem == SILENT
    with answering(two_points) as (other, asked):
        prometheus.url = other
        assert prometheus.curve(LOSS, ["another.site"], START, END).problem == SILENT
        assert asked == []
        now[0] += 11
        assert prometheus.curve(LOSS, SITES, START, END).problem == ""


def test_a_redirect_is_not_followed() -> None:
    def away(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://169.254.169.254/latest/meta-data")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with answering(away) as (url, asked):
        assert "no Prometheus" in Prometheus(url).curve(LOSS, SITES, START, END).problem
    assert len(asked) == 1


def test_an_endless_answer_is_cut() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(MOST_BYTES // 65_536 + 64):
                handler.wfile.write(b" " * 65_536)
        except OSError:
            pass  # the console hung up

    with answering(endless) as (url, _):
        assert "more than 2 MiB" in Prometheus(url).curve(LOSS, SITES, START, END).problem


@pytest.mark.parametrize("status", [400, 401, 422, 500, 503])
def test_a_refusal_is_a_sentence(status: int) -> None:
    refusal = json.dumps({"status": "error", "error": "query processing would load too many samples"}).encode()
    with answering(lambda handler: send(handler, status, refusal)) as (url, _):
        problem = Prometheus(url).curve(LOSS, SITES, START, END).problem
    assert problem == f"Prometheus refuses the query ({status}): query processing would load too many samples"
