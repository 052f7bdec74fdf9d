"""Metrics: what is defined, what is recorded, and that their number of series is bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.util.types import AttributeValue

from umim import metrics as m
from umim.metrics import METRICS, MOST_SERIES, Instruments, Metric
from umim.telemetry import round_context, round_span_context

Series = dict[tuple[tuple[str, AttributeValue], ...], float]


class Recorded:
    """Instruments, and what an exporter would see of them."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.instruments = Instruments(MeterProvider(metric_readers=[self.reader]).get_meter("test"))

    def series(self, wanted: Metric) -> Series:
        """The values of a metric by its attributes; of a histogram, the sums."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            _key(point.attributes or {}): float(getattr(point, "value", 0) or getattr(point, "sum", 0))
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == wanted.name
            for point in metric.data.data_points
        }


def _key(attributes: Mapping[str, AttributeValue]) -> tuple[tuple[str, AttributeValue], ...]:
    return tuple(sorted(attributes.items(), key=lambda item: item[0]))


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_names_are_unique_and_units_are_those_of_ucum() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"umim(\.[a-z_]+)+", metric.name)
        assert re.fullmatch(r"s|By|\{[a-z]+\}(/s)?", metric.unit), metric
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric
        assert metric.description.endswith("."), metric
        assert set(metric.attributes) <= set(m.ATTRIBUTES), metric


def test_no_metric_names_a_round_a_job_or_an_attempt() -> None:
    for metric in METRICS:
        assert not {"umim.round", "umim.round.uid", "umim.attempt", "k8s.job.name"} & set(metric.attributes)


@pytest.mark.parametrize("metric", [m.SITE_FAILURES, m.UPDATE_NORM, m.ROUND_DURATION], ids=lambda metric: metric.kind)
def test_what_goes_beyond_the_most_series_is_counted_together(recorded: Recorded, metric: Metric) -> None:
    for number in range(MOST_SERIES + 50):
        recorded.instruments.record(metric, 1, {metric.attributes[0]: f"h.{number}"})
    found = recorded.series(metric)
    assert len(found) == MOST_SERIES + 1
    assert (("otel.metric.overflow", True),) in found


def test_an_attribute_that_the_definition_does_not_name_is_dropped(recorded: Recorded) -> None:
    recorded.instruments.record(m.UPDATE_BYTES, 5, {m.SITE: "a.x", "patient": "Doe^Jane"})
    assert recorded.series(m.UPDATE_BYTES) == {((m.SITE, "a.x"),): 5}


def test_a_gauge_tells_its_newest_value_until_it_is_forgotten(recorded: Recorded) -> None:
    for value in (3.0, 4.0):
        recorded.instruments.record(m.UPDATE_NORM, value, {m.SITE: "a.x"})
    assert recorded.series(m.UPDATE_NORM) == {((m.SITE, "a.x"),): 4.0}
    recorded.instruments.forget(m.UPDATE_NORM, {m.SITE: "a.x"})
    assert recorded.series(m.UPDATE_NORM) == {}
    recorded.instruments.forget(m.UPDATE_NORM, {m.SITE: "a.x"})


def test_bytes_are_counted_from_zero_on_by_direction(recorded: Recorded) -> None:
    count = recorded.instruments.store_counter("site", "a.x")
    who = ((m.ROLE, "site"), (m.SITE, "a.x"))
    received, sent = ((m.DIRECTION, "receive"), *who), ((m.DIRECTION, "transmit"), *who)
    assert recorded.series(m.STORE_BYTES) == {received: 0, sent: 0}
    count("in", 3)
    count("out", 4)
    assert recorded.series(m.STORE_BYTES) == {received: 3, sent: 4}


def test_a_loss_that_may_not_leave_is_not_recorded(recorded: Recorded) -> None:
    recorded.instruments.record_training("a.x", 10.0, None)
    assert recorded.series(m.IMAGES_PER_SECOND) == {((m.SITE, "a.x"),): 10.0}
    assert recorded.series(m.TRAINING_LOSS) == {}


def test_a_histogram_carries_an_exemplar_that_leads_to_the_rounds_trace(recorded: Recorded) -> None:
    recorded.instruments.record(m.ROUND_DURATION, 40, {m.NAMESPACE: "f", m.ROUND_PHASE: "Complete"}, round_context("u"))
    data = recorded.reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert [item.trace_id for item in point.exemplars] == [round_span_context("u").trace_id]
