"""One trace spans a round: the operator and the Jobs send their spans to a real receiver on this host."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from hack.cluster.settings import NODE_IP
from hack.testenv.hospitals import Site
from hack.testenv.otlp import Receiver
from hack.testenv.platform import FEDERATION, RELEASE, SYSTEM, Platform
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch

SERVICES = {"umim-operator", "umim-pretrain", "umim-site", "umim-aggregator"}


@pytest.fixture
def receiver(platform: Platform) -> Iterator[Receiver]:
    """A receiver that pods reach on the node's address, and an operator that sends there."""
    with Receiver(NODE_IP) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        _send_to(platform, server.endpoint)
        try:
            yield server
        finally:
            _send_to(platform, "")
            server.shutdown()
            thread.join(30)


def _send_to(platform: Platform, endpoint: str) -> None:
    values = {"telemetry": {"otlpEndpoint": endpoint}}
    platform.helm.install(RELEASE, "umim", SYSTEM, values, keep_values=True, wait=True)
    platform.wait_ready("umim-operator")


def test_one_trace_spans_the_round_from_operator_to_aggregator(
    receiver: Receiver, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("traced", *sites[:2], parent={"init": "random"}, training={"seed": 7})
    trace = round_.wait_phase("Complete")["traceId"]

    def spans() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for service, span in receiver.all_spans:
            if span.trace_id.hex() == trace:
                found.setdefault(service, set()).add(span.name)
        return found

    def roots() -> list[Span]:
        return [span for _, span in receiver.all_spans if span.trace_id.hex() == trace and not span.parent_span_id]

    wait_until("spans of all services", lambda: spans().keys() >= SERVICES or None, 60, lambda: str(spans()))
    root = wait_until("the root span", lambda: roots() or None, 60, lambda: str(spans()))
    assert [span.name for span in root] == [f"{FEDERATION}/traced"]
    jobs = [span for service, span in receiver.all_spans if service != "umim-operator" and span.trace_id.hex() == trace]
    roots_of_jobs = {span.parent_span_id for span in jobs} - {span.span_id for span in jobs}
    assert roots_of_jobs == {root[0].span_id}
    wanted = {"umim.reconcile.duration", "umim.round.finished", "umim.site.images_per_second", "umim.store.bytes"}
    wait_until(
        "metrics of operator and Jobs",
        lambda: receiver.metric_names >= wanted or None,
        90,
        lambda: str(receiver.metric_names),
    )
