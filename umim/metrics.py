"""Every metric of the project: its definition, and what records it. Names and units follow OpenTelemetry's conventions.

Cardinality is bounded twice. An attribute that the definition does not name is dropped, so nothing slips in that nobody
thought of; and of one metric at most ``MOST_SERIES`` combinations are kept, as the OpenTelemetry specification
recommends: what comes later is counted together under ``otel.metric.overflow``.
No attribute names a round, a Job, an image or a patient. A round is found by its trace: histograms carry exemplars.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation

Value = str | int | float | bool
Attributes = Mapping[str, Value]
Kind = Literal["counter", "gauge", "histogram"]

MOST_SERIES = 2000
"""Most combinations of attributes of one metric in one process."""
OVERFLOW: Attributes = {"otel.metric.overflow": True}

NAMESPACE = "k8s.namespace.name"
SITE = "umim.site"
ROUND_PHASE = "umim.round.phase"
ROUND_REASON = "umim.round.reason"
SITE_PHASE = "umim.site.phase"
REASON = "umim.reason"
ROLE = "umim.role"
WAIT = "umim.job.wait"
GPU = "umim.job.gpu"
KIND = "umim.resource.kind"
OUTCOME = "umim.outcome"
ERROR_TYPE = "error.type"
MOMENT = "umim.moment"
FEDERATION = "umim.federation"
FEDERATION_PHASE = "umim.federation.phase"
STATE = "umim.state"
DIRECTION = "network.io.direction"

ATTRIBUTES: Mapping[str, str] = {
    NAMESPACE: "Namespace of the round or campaign.",
    SITE: "namespace.name of the Hospital, or server.",
    ROUND_PHASE: "Phase of the round.",
    ROUND_REASON: "Reason of the round's end, from a fixed list.",
    SITE_PHASE: "Phase in which the site ended: Succeeded, Failed, Excluded, Late or Refused.",
    REASON: "Reason, from a fixed list.",
    ROLE: "Role of the process: operator, init, site or aggregate.",
    WAIT: "What the Job waited for: quota (admission by a queue) or start (a node, its GPU, images).",
    GPU: "Whether the Job asks for a GPU.",
    KIND: "Kind of the resource.",
    OUTCOME: "success, conflict (somebody else wrote first; tried again at once) or error.",
    ERROR_TYPE: "Class of the error.",
    MOMENT: "before or after the training.",
    FEDERATION: "Name of the Federation.",
    FEDERATION_PHASE: "Phase of the Federation.",
    STATE: "done or planned.",
    DIRECTION: "receive (from the store) or transmit (to it).",
}
"""Meaning of every attribute."""

_LONG = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 259200, 604800)
_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAIT = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)


@dataclass(frozen=True)
class Metric:
    """The definition of one metric."""

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...]
    description: str
    buckets: tuple[float, ...] = ()


ROUNDS = Metric("umim.rounds", "gauge", "{round}", (NAMESPACE, ROUND_PHASE), "Rounds that exist, by phase.")
ROUND_FINISHED = Metric(
    "umim.round.finished", "counter", "{round}", (NAMESPACE, ROUND_PHASE, ROUND_REASON), "Rounds that ended."
)
ROUND_DURATION = Metric(
    "umim.round.duration",
    "histogram",
    "s",
    (NAMESPACE, ROUND_PHASE),
    "Time from the round's creation to its end.",
    _LONG,
)
QUORUM_DURATION = Metric(
    "umim.round.quorum.duration",
    "histogram",
    "s",
    (NAMESPACE,),
    "Time from the start of training until so many updates were there as the quorum asks.",
    _LONG,
)
SITE_FINISHED = Metric(
    "umim.site.finished",
    "counter",
    "{site}",
    (SITE, SITE_PHASE, REASON),
    "Sites that ended in a round, with the reason: why a site was excluded, failed, came late or was refused.",
)
SITE_FAILURES = Metric(
    "umim.site.failures", "counter", "{attempt}", (SITE, REASON), "Attempts of sites that failed and cost a retry."
)
SITE_DURATION = Metric(
    "umim.site.duration",
    "histogram",
    "s",
    (NAMESPACE, SITE_PHASE),
    "Time from the start of the site's last Job to the site's end.",
    _LONG,
)
SITE_LAST_DURATION = Metric(
    "umim.site.last.duration", "gauge", "s", (SITE,), "The same time, of the site's newest round."
)
JOB_WAIT = Metric(
    "umim.job.wait.duration",
    "histogram",
    "s",
    (ROLE, WAIT, GPU),
    "Time that a Job waited in a queue for quota, and from then until its Pod was ready: with a GPU, the GPU wait.",
    _WAIT,
)
UPDATE_BYTES = Metric(
    "umim.site.update.bytes", "counter", "By", (SITE,), "Bytes of updates and heads that left the hospital."
)
UPDATE_NORM = Metric(
    "umim.site.update.norm",
    "gauge",
    "{norm}",
    (SITE,),
    "L2 norm of the newest update's change of the model. Absent where the strategy does not look at whole updates.",
)
UPDATE_COSINE = Metric(
    "umim.site.update.cosine",
    "gauge",
    "{cosine}",
    (SITE,),
    "Cosine between that change and the mean of the other sites' changes: the drift of a site.",
)
SITE_LOSS = Metric(
    "umim.site.loss",
    "gauge",
    "{loss}",
    (SITE, MOMENT),
    "Validation loss at the site in its newest round. Absent where the hospital lets no metrics out.",
)
MODEL_LOSS = Metric(
    "umim.model.loss",
    "gauge",
    "{loss}",
    (NAMESPACE, MOMENT),
    "Validation loss of the newest model's round, the sites weighted by their images.",
)
EPSILON_SPENT = Metric(
    "umim.privacy.epsilon.spent", "gauge", "{epsilon}", (SITE,), "Epsilon that the hospital's trainings spent together."
)
EPSILON_REMAINING = Metric(
    "umim.privacy.epsilon.remaining",
    "gauge",
    "{epsilon}",
    (SITE,),
    "What is left of the hospital's privacy budget. Absent where it has none.",
)
FEDERATIONS = Metric(
    "umim.federations", "gauge", "{federation}", (NAMESPACE, FEDERATION_PHASE), "Campaigns that exist, by phase."
)
FEDERATION_ROUNDS = Metric(
    "umim.federation.rounds",
    "gauge",
    "{round}",
    (NAMESPACE, FEDERATION, STATE),
    "Rounds of a campaign: done, and planned in all its stages.",
)
SERVER_LOSS = Metric(
    "umim.federation.server.loss",
    "gauge",
    "{loss}",
    (NAMESPACE, FEDERATION),
    "Loss of masked image modelling of the campaign's newest model on the server's images.",
)
RECONCILE_DURATION = Metric(
    "umim.operator.reconcile.duration",
    "histogram",
    "s",
    (KIND, OUTCOME, ERROR_TYPE),
    "Time of one reconciliation. Its count by outcome tells the errors.",
    _SHORT,
)
RECONCILE_WAIT = Metric(
    "umim.operator.reconcile.wait",
    "histogram",
    "s",
    (),
    "Time from a change that a round must be looked at for to the begin of the look.",
    _SHORT,
)
IMAGES_PER_SECOND = Metric(
    "umim.site.throughput", "gauge", "{image}/s", (SITE,), "Training throughput, while the Job runs."
)
TRAINING_LOSS = Metric(
    "umim.training.loss",
    "gauge",
    "{loss}",
    (SITE,),
    "Training loss, while the Job runs. Absent where the hospital lets no metrics out.",
)
STORE_BYTES = Metric(
    "umim.store.bytes", "counter", "By", (ROLE, SITE, DIRECTION), "Bytes of objects moved from and to the store."
)

METRICS: tuple[Metric, ...] = (
    *(ROUNDS, ROUND_FINISHED, ROUND_DURATION, QUORUM_DURATION),
    *(SITE_FINISHED, SITE_FAILURES, SITE_DURATION, SITE_LAST_DURATION, JOB_WAIT),
    *(UPDATE_BYTES, UPDATE_NORM, UPDATE_COSINE, SITE_LOSS, MODEL_LOSS, EPSILON_SPENT, EPSILON_REMAINING),
    *(FEDERATIONS, FEDERATION_ROUNDS, SERVER_LOSS, RECONCILE_DURATION, RECONCILE_WAIT),
    *(IMAGES_PER_SECOND, TRAINING_LOSS, STORE_BYTES),
)
JOB_METRICS = frozenset({IMAGES_PER_SECOND, TRAINING_LOSS, STORE_BYTES})
"""What Jobs record; the operator records the others, and its own STORE_BYTES."""


class Recorder:
    """Records one metric. Safe to use from several threads."""

    def __init__(self, meter: metrics.Meter, metric: Metric) -> None:
        self._metric = metric
        self._lock = threading.Lock()
        self._values: dict[frozenset[tuple[str, Value]], float] = {}
        name, unit, text = metric.name, metric.unit, metric.description
        self._counter = meter.create_counter(name, unit, text) if metric.kind == "counter" else None
        self._histogram = None
        if metric.kind == "histogram":
            self._histogram = meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=list(metric.buckets)
            )
        if metric.kind == "gauge":
            # An observable one: a synchronous gauge would go on telling of what was deleted long ago.
            meter.create_observable_gauge(name, [self._observe], unit, text)

    def record(self, value: float, attributes: Attributes, context: Context | None = None) -> None:
        """Add to a counter, set a gauge, or enter a value into a histogram. ``context``: the exemplar's trace."""
        key = frozenset((name, item) for name, item in attributes.items() if name in self._metric.attributes)
        with self._lock:
            if key not in self._values and len(self._values) >= MOST_SERIES:
                key = frozenset(OVERFLOW.items())
            self._values[key] = value
        if self._counter is not None:
            self._counter.add(value, dict(key), context)
        if self._histogram is not None:
            self._histogram.record(value, dict(key), context)

    def forget(self, attributes: Attributes) -> None:
        """Tell no more of a gauge's series: what it was about is gone."""
        with self._lock:
            self._values.pop(frozenset(attributes.items()), None)

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            found = list(self._values.items())
        return [Observation(value, dict(key)) for key, value in found]


class Instruments:
    """Records the metrics of one process."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._recorders = {metric: Recorder(meter, metric) for metric in METRICS}

    def record(
        self, metric: Metric, value: float, attributes: Attributes | None = None, context: Context | None = None
    ) -> None:
        """Add to a counter, set a gauge, or enter a value into a histogram. ``context``: the exemplar's trace."""
        self._recorders[metric].record(value, attributes or {}, context)

    def forget(self, metric: Metric, attributes: Attributes) -> None:
        """Tell no more of a gauge's series."""
        self._recorders[metric].forget(attributes)

    def record_training(self, site: str, images_per_second: float | None, loss: float | None) -> None:
        """Record one live report of a training; the loss is None where it may not leave."""
        if images_per_second is not None:
            self.record(IMAGES_PER_SECOND, images_per_second, {SITE: site})
        if loss is not None:
            self.record(TRAINING_LOSS, loss, {SITE: site})

    def store_counter(self, role: str, site: str = "server") -> StoreCounter:
        """Return what counts the bytes that a process moves; fits the store's ``count`` argument."""
        return StoreCounter(self, {ROLE: role, SITE: site})


class StoreCounter:
    """Counts bytes moved ``in`` or ``out``."""

    def __init__(self, instruments: Instruments, attributes: Attributes) -> None:
        self._instruments = instruments
        self._attributes = attributes
        for direction in ("in", "out"):
            # From zero on: a rate can tell the first bytes only where there was a zero before.
            self(direction, 0)

    def __call__(self, direction: str, count: int) -> None:
        """Add bytes."""
        way = "receive" if direction == "in" else "transmit"
        self._instruments.record(STORE_BYTES, count, {**self._attributes, DIRECTION: way})
