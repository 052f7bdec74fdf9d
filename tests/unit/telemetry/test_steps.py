"""Steps are spans below the span that the process is in, and nothing where telemetry is off."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from umim.telemetry import Telemetry, step


def test_a_step_is_a_span_below_the_current_one() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Telemetry(provider, None).span("train_site"), step("load_data"):
        pass
    with step("later"):
        pass
    inner, outer = exporter.get_finished_spans()
    assert (inner.name, outer.name) == ("load_data", "train_site")
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


def test_a_step_outside_of_any_span_lets_errors_through() -> None:
    with pytest.raises(KeyError), step("load_data"):
        raise KeyError("x")
