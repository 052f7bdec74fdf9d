"""What the operator measures of each step of a round and of a campaign."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.unit.operator import campaign
from tests.unit.operator.make import (
    NOW,
    SECOND,
    UID,
    A,
    B,
    C,
    accepted,
    ended,
    hospital,
    job,
    observed,
    result,
    spec,
    step,
    trained,
    training,
    updates,
    view,
)
from umim import metrics as m
from umim.api.artifacts import Exclusion, UpdateFigures
from umim.api.federation import FederationStatus, StageRound, StageStatus
from umim.api.round import FederationRoundStatus
from umim.metrics import Attributes, Metric
from umim.telemetry import RootIds, Telemetry, federation_span_context, round_span_context
from umim_operator.kube import ConflictError
from umim_operator.measures import Measurement, Measures, of_federation, of_hospital, of_round
from umim_operator.state import Observed, Plan

PLACE: Attributes = {m.NAMESPACE: "federation"}


def told(found: list[Measurement], metric: Metric) -> list[tuple[Attributes, float]]:
    return [(one.attributes, one.value) for one in found if one.metric is metric]


def measured(status: FederationRoundStatus, seen: Observed, next_: Plan, seconds: int = 0) -> list[Measurement]:
    return of_round(view(spec(), status, created=NOW), seen, next_, NOW + seconds * SECOND)


def test_every_measurement_has_the_attributes_of_its_definition_and_no_others() -> None:
    status, seen = trained(spec())
    seen = replace(seen, **result("aggregate"))
    everything = measured(FederationRoundStatus(), seen, step(spec(), None, observed()))
    everything += measured(status, seen, step(spec(), status, seen))
    assert len({one.metric for one in everything}) >= 5
    for one in everything:
        assert set(one.attributes) == set(one.metric.attributes), one


def test_counters_of_sites_begin_at_zero_when_a_round_is_accepted() -> None:
    found = measured(FederationRoundStatus(), observed(), step(spec(), None, observed()))
    assert told(found, m.UPDATE_BYTES) == [({m.SITE: site}, 0) for site in (A, B, C)]
    assert {value for _, value in told(found, m.SITE_FINISHED)} == {0}
    assert len(told(found, m.ROUND_FINISHED)) == 4


def test_a_look_that_changes_nothing_measures_nothing() -> None:
    status, seen = training(spec())
    assert measured(status, seen, step(spec(), status, seen)) == []


def test_an_update_tells_its_bytes_losses_and_the_time_that_its_job_took() -> None:
    status, seen = training(spec())
    jobs = tuple(replace(one, created=NOW) for one in seen.jobs)
    seen = replace(ended(replace(seen, jobs=jobs), succeeded=[A]), updates=updates(A))
    found = measured(status, seen, step(spec(), status, seen), 42)
    assert told(found, m.UPDATE_BYTES) == [({m.SITE: A}, 1234)]
    assert told(found, m.SITE_LOSS) == [({m.SITE: A, m.MOMENT: "before"}, 2.0), ({m.SITE: A, m.MOMENT: "after"}, 1.0)]
    end = {m.SITE: A, m.SITE_PHASE: "Succeeded", m.REASON: "UpdateCommitted"}
    assert told(found, m.SITE_FINISHED) == [(end, 1)]
    assert told(found, m.SITE_DURATION) == [({**PLACE, m.SITE_PHASE: "Succeeded"}, 42)]
    assert told(found, m.SITE_LAST_DURATION) == [({m.SITE: A}, 42)]


def test_a_failed_attempt_is_told_with_its_reason() -> None:
    status, seen = training(spec())
    seen = ended(seen, failed=[B], exit_code=1, message="out of memory")
    found = measured(status, seen, step(spec(), status, seen))
    assert told(found, m.SITE_FAILURES) == [({m.SITE: B, m.REASON: "JobFailed"}, 1)]
    assert told(found, m.SITE_FINISHED) == []


def test_the_quorum_is_told_once_with_the_time_that_it_took() -> None:
    status, seen = training(spec())
    seen = replace(ended(seen, succeeded=[A, B]), updates=updates(A, B))
    next_ = step(spec(), status, seen, 9 * SECOND)
    assert told(measured(status, seen, next_, 9), m.QUORUM_DURATION) == [(PLACE, 9)]
    again = step(spec(), next_.status, seen, 10 * SECOND)
    assert told(measured(next_.status, seen, again, 10), m.QUORUM_DURATION) == []


def test_a_published_model_tells_its_losses_the_round_its_end_and_the_sites_their_drift() -> None:
    status, seen = trained(spec())
    figures = [UpdateFigures(site=site, norm=2.0, cosine=0.5, outlier=False) for site in (A, B)]
    exclusions = [Exclusion(site=C, reason="NotFinite", message="x")]
    seen = replace(seen, **result("aggregate", outliers=figures, exclusions=exclusions))
    found = measured(status, seen, step(spec(), status, seen, 60 * SECOND), 60)
    assert told(found, m.MODEL_LOSS) == [({**PLACE, m.MOMENT: "before"}, 2.0), ({**PLACE, m.MOMENT: "after"}, 1.0)]
    complete = {**PLACE, m.ROUND_PHASE: "Complete"}
    assert told(found, m.ROUND_FINISHED) == [({**complete, m.ROUND_REASON: "Published"}, 1)]
    assert told(found, m.ROUND_DURATION) == [(complete, 60)]
    assert told(found, m.UPDATE_NORM) == [({m.SITE: A}, 2.0), ({m.SITE: B}, 2.0)]
    assert told(found, m.UPDATE_COSINE) == [({m.SITE: A}, 0.5), ({m.SITE: B}, 0.5)]
    excluded = {m.SITE: C, m.SITE_PHASE: "Excluded", m.REASON: "NotFinite"}
    assert told(found, m.SITE_FINISHED) == [(excluded, 1)]


@pytest.mark.parametrize(("spent", "left"), [(None, 8.0), (3.0, 5.0), (9.0, -1.0)])
def test_a_privacy_budget_tells_what_is_left(spent: float | None, left: float) -> None:
    floor = {"minNoiseMultiplier": 1.0, "epsilonBudget": 8.0}
    one = replace(hospital(A, privacy={"differentialPrivacy": floor}), epsilon_spent=spent)
    found = of_hospital(one)
    assert told(found, m.EPSILON_REMAINING) == [({m.SITE: A}, left)]
    assert told(found, m.EPSILON_SPENT) == ([] if spent is None else [({m.SITE: A}, spent)])
    assert of_hospital(hospital(B)) == []


class Recording:
    """Measures whose metrics and spans can be read."""

    def __init__(self) -> None:
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        traces = TracerProvider(id_generator=RootIds())
        traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now = NOW
        telemetry = Telemetry(traces, MeterProvider(metric_readers=[self.reader]))
        self.measures = Measures(telemetry, lambda: self.now)

    def values(self, wanted: Metric, *attributes: str) -> dict[tuple[object, ...], float]:
        """The values of a metric that are not zero, by these attributes; of a histogram, the sums."""
        data = self.reader.get_metrics_data()
        assert data is not None
        found = {
            tuple((point.attributes or {}).get(name) for name in attributes): getattr(point, "value", None)
            or getattr(point, "sum", 0)
            for scope in data.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            if metric.name == wanted.name
            for point in metric.data.data_points
        }
        return {key: value for key, value in found.items() if value}

    def span(self) -> ReadableSpan:
        """The only span."""
        (found,) = self.exporter.get_finished_spans()
        return found


def test_rounds_are_counted_by_phase_and_a_deleted_one_no_more() -> None:
    recording = Recording()
    status, seen = training(spec())
    recording.measures.looked(view(spec(), status), seen)
    recording.measures.looked(view(spec(), accepted(spec()), uid="other"), seen)
    assert recording.values(m.ROUNDS, m.ROUND_PHASE) == {("Training",): 1, ("Pending",): 1}
    recording.measures.gone(UID)
    recording.measures.gone("never seen")
    assert recording.values(m.ROUNDS, m.ROUND_PHASE) == {("Pending",): 1}


def test_the_wait_of_a_job_is_measured_once_when_its_pod_is_ready() -> None:
    recording = Recording()
    one = job("site", A, created=NOW, started=NOW + 30 * SECOND, gpu=True)
    recording.measures.looked(view(spec()), observed(jobs=(one,)))
    recording.now = NOW + 70 * SECOND
    for _ in range(3):
        recording.measures.looked(view(spec()), observed(jobs=(replace(one, ready=True),)))
    waits = recording.values(m.JOB_WAIT, m.ROLE, m.WAIT, m.GPU)
    assert waits == {("site", "quota", True): 30, ("site", "start", True): 40}


def test_a_job_that_was_ready_when_the_operator_came_up_is_not_measured() -> None:
    recording = Recording()
    one = job("site", A, created=NOW, started=NOW, ready=True)
    recording.measures.looked(view(spec()), observed(jobs=(one,)))
    recording.measures.looked(view(spec()), observed(jobs=(one,)))
    assert recording.values(m.ROUNDS, m.ROUND_PHASE) == {("Pending",): 1}
    assert recording.values(m.JOB_WAIT, m.ROLE) == {}


def test_a_finished_round_of_a_campaign_links_to_it() -> None:
    recording = Recording()
    status, seen = trained(spec())
    seen = replace(seen, **result("aggregate"))
    recording.measures.wrote(view(spec(), status, created=NOW, owner="campaign"), seen, step(spec(), status, seen))
    span = recording.span()
    assert span.context.trace_id == round_span_context(UID).trace_id
    assert [link.context.trace_id for link in span.links] == [federation_span_context("campaign").trace_id]


def test_a_finished_campaign_links_to_its_rounds_and_a_deleted_one_is_told_of_no_more() -> None:
    recording = Recording()
    status = campaign.view(campaign.spec()).status.model_copy(
        update={"phase": "Complete", "start_time": NOW, "completion_time": NOW + 60 * SECOND}
    )
    seen = campaign.view(campaign.spec(), status)
    recording.measures.looked_at_federation(seen, status)
    recording.measures.federation_ended(seen, status, ["r1", "r2"])
    assert [link.context.trace_id for link in recording.span().links] == [
        round_span_context("r1").trace_id,
        round_span_context("r2").trace_id,
    ]
    assert recording.values(m.FEDERATIONS, m.FEDERATION_PHASE) == {("Complete",): 1}
    assert recording.values(m.FEDERATION_ROUNDS, m.STATE)
    recording.measures.federation_gone(seen)
    assert recording.values(m.FEDERATIONS, m.FEDERATION_PHASE) == {}
    assert recording.values(m.FEDERATION_ROUNDS, m.STATE) == {}


def test_a_campaign_tells_its_rounds_and_its_newest_loss_on_the_servers_images() -> None:
    place = {m.NAMESPACE: "federation", m.FEDERATION: "fed"}
    rounds = [StageRound(name="r1", phase="Complete", server_mim_loss=0.5), StageRound(name="r2", phase="Training")]
    status = FederationStatus(stages=[StageStatus(name="ct", rounds=rounds)])
    found = of_federation(campaign.view(campaign.spec()), status)
    counts = [({**place, m.STATE: "done"}, 1), ({**place, m.STATE: "planned"}, 4)]
    assert told(found, m.FEDERATION_ROUNDS) == counts
    assert told(found, m.SERVER_LOSS) == [(place, 0.5)]


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [(None, "success", None), (ConflictError(409, "x"), "conflict", None), (OSError("x"), "error", "OSError")],
)
def test_the_time_of_a_look_is_told_by_its_outcome(error: Exception | None, outcome: str, kind: str | None) -> None:
    recording = Recording()

    def look() -> None:
        with recording.measures.reconciling(view(spec())):
            recording.now = datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC)
            if error is not None:
                raise error

    if error is None:
        look()
    else:
        with pytest.raises(type(error)):
            look()
    times = recording.values(m.RECONCILE_DURATION, m.KIND, m.OUTCOME, m.ERROR_TYPE)
    assert times == {("FederationRound", outcome, kind): 2.0}
