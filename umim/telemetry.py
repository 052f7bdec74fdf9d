"""Traces, metrics and logs by OpenTelemetry. Off unless an OTLP endpoint is set; never in the way of the work.

One trace spans a round. Its id is derived from the round's UID, so that the operator joins it again after a restart,
and Jobs get it as W3C trace context (https://www.w3.org/TR/trace-context/) in TRACEPARENT.
Attributes name rounds, sites and Jobs; nothing of a patient, an image or a file is recorded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from umim.metrics import Instruments
from umim.settings import TelemetrySettings

EXPORT_TIMEOUT_SECONDS = 3
METRIC_INTERVAL_SECONDS = 10
SHUTDOWN_SECONDS = 5.0
_LIBRARY = "umim"

Attributes = Mapping[str, str | int | float | bool]


class Telemetry:
    """The telemetry of one process. Made by ``start``."""

    def __init__(
        self, traces: TracerProvider | None, meters: MeterProvider | None, parent: Context | None = None
    ) -> None:
        self._traces = traces
        self._meters = meters
        self.parent = parent
        """Context of the span that this process continues, from TRACEPARENT. None: there is none."""
        self.tracer = traces.get_tracer(_LIBRARY) if traces else trace.NoOpTracer()
        meter = meters.get_meter(_LIBRARY) if meters else metrics.NoOpMeter(_LIBRARY)
        self.metrics = Instruments(meter)

    @contextmanager
    def span(self, name: str, attributes: Attributes | None = None, parent: Context | None = None) -> Iterator[None]:
        """Record a span around a block: under ``parent``, else the current span, else TRACEPARENT's."""
        if parent is None and not trace.get_current_span().get_span_context().is_valid:
            parent = self.parent
        # The text of an exception may name a file, and so a patient: only its type goes into the span.
        with self.tracer.start_as_current_span(
            name, context=parent, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            token = _current.set(self)
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                _current.reset(token)

    def record_root(
        self,
        root: SpanContext,
        name: str,
        start: datetime,
        end: datetime,
        attributes: Attributes | None = None,
        links: Sequence[SpanContext] = (),
    ) -> None:
        """Record the root span of a round's or campaign's trace, when it has ended. Again does no harm."""
        token = _forced_ids.set((root.trace_id, root.span_id))
        try:
            span = self.tracer.start_span(
                name,
                context=Context(),
                attributes=attributes,
                links=[Link(one) for one in links],
                start_time=_nanos(start),
            )
        finally:
            _forced_ids.reset(token)
        span.end(_nanos(end))

    def shutdown(self) -> None:
        """Send what is pending and stop, within 5 s. What cannot be sent is dropped."""
        providers = [provider for provider in (self._traces, self._meters) if provider is not None]
        threads = [threading.Thread(target=provider.shutdown, daemon=True) for provider in providers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SHUTDOWN_SECONDS / len(threads))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Record a span around a part of what the current ``Telemetry.span`` is about; nothing where there is none."""
    running = _current.get()
    if running is None:
        yield
        return
    with running.span(name):
        yield


def start(settings: TelemetrySettings, service: str, version: str) -> Telemetry:
    """Start exporting traces and metrics under a service name, or return telemetry that does nothing.

    Sets no global provider. Call ``shutdown`` at the end of the process.
    """
    parent = context_from_traceparent(settings.traceparent) if settings.traceparent else None
    if settings.endpoint is None:
        return Telemetry(None, None, parent)
    # The host's name is the Pod's. Without an instance, two Jobs of a service would write the same series.
    identity = {"service.name": service, "service.version": version, "service.instance.id": socket.gethostname()}
    resource = Resource.create(identity)
    traces = TracerProvider(resource=resource, id_generator=RootIds(), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{settings.endpoint}/v1/traces", timeout=EXPORT_TIMEOUT_SECONDS)
    traces.add_span_processor(BatchSpanProcessor(exporter))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=f"{settings.endpoint}/v1/metrics", timeout=EXPORT_TIMEOUT_SECONDS),
        export_interval_millis=METRIC_INTERVAL_SECONDS * 1000,
        export_timeout_millis=EXPORT_TIMEOUT_SECONDS * 1000,
    )
    meters = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    return Telemetry(traces, meters, parent)


def round_trace_id(uid: str) -> str:
    """Return the W3C trace id of a round, 32 hexadecimal digits, derived from its UID."""
    return trace.format_trace_id(round_span_context(uid).trace_id)


def round_span_context(uid: str) -> SpanContext:
    """Return the context of a round's root span, derived from its UID: the same in every process and at any time."""
    return _derived_span_context(f"umim round {uid}")


def federation_span_context(uid: str) -> SpanContext:
    """Return the context of a campaign's root span, derived from its UID. Its rounds have traces of their own."""
    return _derived_span_context(f"umim federation {uid}")


def round_context(uid: str) -> Context:
    """Return the context under which spans of a round are recorded."""
    return trace.set_span_in_context(NonRecordingSpan(round_span_context(uid)), Context())


def federation_context(uid: str) -> Context:
    """Return the context under which spans of a campaign are recorded."""
    return trace.set_span_in_context(NonRecordingSpan(federation_span_context(uid)), Context())


def _derived_span_context(text: str) -> SpanContext:
    digest = hashlib.sha256(text.encode()).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16]) or 1,
        span_id=int.from_bytes(digest[16:24]) or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def context_from_traceparent(traceparent: str) -> Context | None:
    """Return the context that a W3C traceparent names, or None when it is malformed: a trace is never worth a Job."""
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def traceparent(context: Context | None = None) -> str | None:
    """Return the W3C traceparent of a context (default: the current one), or None where there is no span."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return carrier.get("traceparent")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, trace_id where there is one, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup_logging(service: str, stream: TextIO, level: int = logging.INFO) -> None:
    """Send all log records of the process to a stream, see ``JsonFormatter``. Replaces handlers set before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)


_current: ContextVar[Telemetry | None] = ContextVar("umim_telemetry", default=None)
_forced_ids: ContextVar[tuple[int, int] | None] = ContextVar("umim_forced_ids", default=None)


class RootIds(RandomIdGenerator):
    """Random ids, but for the root span of a round: the SDK has no other way to give a span a known id."""

    def generate_trace_id(self) -> int:
        """Return the trace id of the root span that is being made, or a random one."""
        forced = _forced_ids.get()
        return forced[0] if forced else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of the root span that is being made, or a random one."""
        forced = _forced_ids.get()
        return forced[1] if forced else super().generate_span_id()


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000_000)
