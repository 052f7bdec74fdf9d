"""What is measured, and by whom: the kernel (CPU, memory), the API server (its audit log), the operator (its spans)."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from hack.testenv.otlp import Receiver

SAMPLE_SECONDS = 0.5
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
TOO_MANY = 429
WAIT_METRIC = "umim.operator.reconcile.wait"
RECONCILE_SPAN = "umim.reconcile"

Object = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One look at the operator's process."""

    time: float
    rss_bytes: int
    cpu_seconds: float


@dataclass
class Sampler:
    """Looks at a process twice a second until the block ends."""

    pid: int
    samples: list[Sample] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample during a block."""
        done = threading.Event()
        thread = threading.Thread(target=self._run, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def between(self, start: float, end: float) -> list[Sample]:
        """Return the samples of a time."""
        return [sample for sample in self.samples if start <= sample.time <= end]

    def _run(self, done: threading.Event) -> None:
        while not done.wait(SAMPLE_SECONDS):
            sample = look_at(self.pid)
            if sample is not None:
                self.samples.append(sample)


def look_at(pid: int) -> Sample | None:
    """Return memory and CPU time of a process, or None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    return Sample(time.time(), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), cpu)


@dataclass(frozen=True)
class HostState:
    """How busy the whole machine is."""

    time: float
    total: int
    stolen: int
    idle: int

    @classmethod
    def now(cls) -> HostState:
        """Return the kernel's counters."""
        values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(time.time(), sum(values), values[7], values[3])

    def since(self, before: HostState) -> Object:
        """Return the shares of the time since then, and the load average."""
        total = max(1, self.total - before.total)
        return {
            "load_average_1_min": round(os.getloadavg()[0], 2),
            "stolen_share": round((self.stolen - before.stolen) / total, 4),
            "idle_share": round((self.idle - before.idle) / total, 4),
        }


class AuditLog:
    """The API server's own record of the operator's requests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def skip(self) -> None:
        """Forget what was written until now."""
        self._offset = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[Object]:
        """Return what was written since the last call or skip. Watches count when they begin."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
            self._offset += len(data)
        events = [json.loads(line) for line in data.splitlines()]
        return [event for event in events if event["stage"] == _counted_stage(event)]


def _counted_stage(event: Object) -> str:
    return "ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"


def requests_by_kind(events: Iterable[Object]) -> dict[str, int]:
    """Return the number of requests by verb and resource, most first."""
    found: Counter[str] = Counter()
    for event in events:
        target = event.get("objectRef", {})
        part = f"/{target['subresource']}" if target.get("subresource") else ""
        found[f"{event['verb']} {target.get('resource', event['requestURI'].split('?')[0])}{part}"] += 1
    return dict(found.most_common())


def codes(events: Iterable[Object]) -> dict[str, int]:
    """Return the number of requests by HTTP status, sorted."""
    return dict(sorted(Counter(str(event["responseStatus"]["code"]) for event in events).items()))


def throttling(events: Iterable[Object]) -> Object:
    """Return how often the API server rejected a request with 429, and how soon the operator asked for the same again.

    Another request with the same verb and URI is a new try, but for creations and for models: rounds that start from
    the same model all ask for it.
    """
    rejected: dict[tuple[str, str], datetime] = {}
    waits: list[float] = []
    count = 0
    for event in sorted(events, key=lambda event: str(event["requestReceivedTimestamp"])):
        key = (event["verb"], event["requestURI"])
        before = rejected.pop(key, None)
        shared = event["verb"] == "create" or event.get("objectRef", {}).get("resource") == "globalmodels"
        if before is not None and not shared:
            waits.append((datetime.fromisoformat(event["requestReceivedTimestamp"]) - before).total_seconds())
        if event["responseStatus"]["code"] == TOO_MANY:
            count += 1
            rejected[key] = datetime.fromisoformat(event["stageTimestamp"])
    return {"rejected": count, "tried_again": len(waits), "shortest_wait_s": round(min(waits), 3) if waits else None}


def reconciles(receiver: Receiver, start: float, end: float) -> list[tuple[float, float]]:
    """Return start and duration of the operator's looks that began in a time, in seconds, as it told by its spans."""
    spans = [span for _, span in receiver.all_spans if span.name == RECONCILE_SPAN]
    found = [
        (span.start_time_unix_nano / 1e9, (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9) for span in spans
    ]
    return sorted(item for item in found if start <= item[0] <= end)


@dataclass(frozen=True)
class Buckets:
    """A histogram of the operator since its start."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


def waits(receiver: Receiver) -> Buckets:
    """Return the newest histogram of the time that rounds waited for a look."""
    for request in reversed(receiver.metrics):
        for resource in request.resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if metric.name == WAIT_METRIC:
                    (point,) = metric.histogram.data_points
                    return Buckets(tuple(point.explicit_bounds), tuple(point.bucket_counts))
    return Buckets()


def waited(before: Buckets, after: Buckets) -> Object:
    """Return percentiles of what came between two histograms: upper bounds of the buckets in which they lie."""
    earlier = before.counts or (0,) * len(after.counts)
    counts = [new - old for new, old in zip(after.counts, earlier, strict=True)]
    totals = list(accumulate(counts))
    found: Object = {"count": sum(counts)}
    for name, share in (("p50_at_most", 0.5), ("p99_at_most", 0.99)):
        # The last bucket has no upper bound.
        reached = [bound for bound, total in zip(after.bounds, totals, strict=False) if total >= share * totals[-1]]
        found[name] = reached[0] if reached else None
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def spread(values: Sequence[float]) -> Object:
    """Return count and percentiles, in the values' unit."""
    names = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"count": len(values), **{name: round(percentile(values, share), 4) for name, share in names.items()}}
