"""Traces and metrics reach a real OTLP/HTTP receiver, and a missing one is never in the way."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from hack.testenv.otlp import Receiver, receiving
from umim import telemetry
from umim.metrics import METRICS
from umim.settings import TelemetrySettings

UID = "5c6d"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving("127.0.0.1") as server:
        yield server


def test_spans_and_metrics_reach_the_receiver(receiver: Receiver) -> None:
    running = telemetry.start(receiver.settings, "umim-site", "1.2.3")
    with running.span("train", {"umim.site": "a.x"}), running.span("epoch"):
        for metric in METRICS:
            running.metrics.record(metric, 7, dict.fromkeys(metric.attributes, "x"))
    running.shutdown()
    assert receiver.services == {"umim-site"}
    assert set(receiver.spans) == {"train", "epoch"}
    assert receiver.spans["epoch"].parent_span_id == receiver.spans["train"].span_id
    assert receiver.metric_names == {metric.name for metric in METRICS}


def test_one_trace_spans_the_round_over_processes_and_restarts(receiver: Receiver) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    operator = telemetry.start(receiver.settings, "umim-operator", "1")
    handed_over = telemetry.traceparent(telemetry.round_context(UID))
    with operator.span("reconcile 1", parent=telemetry.round_context(UID)):
        pass
    operator.shutdown()

    job = telemetry.start(receiver.settings.model_copy(update={"traceparent": handed_over}), "umim-site", "1")
    with job.span("train"):
        pass
    job.shutdown()

    restarted = telemetry.start(receiver.settings, "umim-operator", "1")
    with restarted.span("reconcile 2", parent=telemetry.round_context(UID)):
        pass
    restarted.record_root(
        telemetry.round_span_context(UID),
        "round",
        start,
        datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
        {"umim.round": "stage-1"},
        [telemetry.federation_span_context("campaign")],
    )
    with restarted.span("unrelated"):
        pass
    restarted.shutdown()

    spans = receiver.spans
    trace_id = bytes.fromhex(telemetry.round_trace_id(UID))
    root = spans["round"]
    assert root.parent_span_id == b""
    assert root.end_time_unix_nano - root.start_time_unix_nano == 60_000_000_000
    assert [link.trace_id.hex() for link in root.links] == [
        f"{telemetry.federation_span_context('campaign').trace_id:032x}"
    ]
    for name in ("reconcile 1", "train", "reconcile 2"):
        assert spans[name].trace_id == trace_id == root.trace_id
        assert spans[name].parent_span_id == root.span_id
        assert spans[name].span_id != root.span_id
    assert spans["unrelated"].trace_id != trace_id


def test_trace_ids_differ_between_rounds_and_stay_the_same() -> None:
    assert telemetry.round_trace_id(UID) == telemetry.round_trace_id(UID)
    assert telemetry.round_trace_id(UID) != telemetry.round_trace_id("other")
    assert len(telemetry.round_trace_id(UID)) == 32


def test_a_span_says_the_type_of_the_error_that_ended_its_block_and_not_its_text(receiver: Receiver) -> None:
    running = telemetry.start(receiver.settings, "umim-site", "1")
    with pytest.raises(ValueError, match="Jane"), running.span("train"):
        raise ValueError("/data/Doe^Jane/1.dcm cannot be read")
    running.shutdown()
    span = receiver.spans["train"]
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert {item.key: item.value.string_value for item in span.attributes}["error.type"] == "ValueError"
    assert b"Jane" not in span.SerializeToString()


def use(running: telemetry.Telemetry) -> None:
    with running.span("work"):
        running.metrics.record_training("a.x", 3.0, 1.0)
    running.shutdown()


def test_without_an_endpoint_telemetry_does_nothing() -> None:
    use(telemetry.start(TelemetrySettings(), "umim-site", "1"))


def test_a_dead_receiver_fails_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    use(telemetry.start(TelemetrySettings(endpoint=f"http://127.0.0.1:{port}"), "umim-site", "1"))


def test_a_receiver_that_never_answers_holds_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(
            telemetry.start(TelemetrySettings(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), "umim-site", "1")
        )


@pytest.mark.parametrize("text", ["", "nonsense", "00-zz-zz-01", f"00-{'0' * 32}-{'0' * 16}-01"])
def test_a_malformed_traceparent_is_ignored(text: str) -> None:
    assert telemetry.context_from_traceparent(text) is None
    running = telemetry.start(TelemetrySettings(traceparent=text or None), "umim-site", "1")
    assert running.parent is None


def test_there_is_no_traceparent_without_a_span() -> None:
    assert telemetry.traceparent() is None


def test_log_lines_are_json_with_the_trace_they_belong_to() -> None:
    formatter = telemetry.JsonFormatter("umim-site")
    record = logging.makeLogRecord({"name": "umim", "levelname": "INFO", "msg": "read %s\nfiles", "args": ("3",)})
    plain = json.loads(formatter.format(record))
    assert (plain["service"], plain["message"], plain["level"]) == ("umim-site", "read 3\nfiles", "INFO")
    assert "trace_id" not in plain
    span = trace.NonRecordingSpan(telemetry.round_span_context(UID))
    with trace.use_span(span):
        line = formatter.format(record)
    assert "\n" not in line
    assert json.loads(line)["trace_id"] == telemetry.round_trace_id(UID)


def test_log_lines_carry_the_exception() -> None:
    root = logging.getLogger()
    handlers, level, stream = root.handlers[:], root.level, io.StringIO()
    try:
        telemetry.setup_logging("umim-site", stream)
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("umim.x").exception("failed")
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
    line = json.loads(stream.getvalue())
    assert line["message"] == "failed"
    assert "ValueError: broken" in line["exception"]
