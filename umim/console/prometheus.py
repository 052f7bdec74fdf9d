"""Curves of a round from Prometheus' HTTP API (/api/v1/query_range). Without it, or without an answer, a sentence."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import urllib3

from umim.console.charts import MOST_SERIES, Point, Series

LOG = logging.getLogger(__name__)
SILENT = "Prometheus does not answer: check that it runs and console.prometheusUrl"
TIMEOUT = urllib3.Timeout(connect=2, read=5)
MOST_BYTES = 2 * 1024 * 1024
"""Longer answers are not read: the console asks for a few hundred points."""
POINTS = 120
LEAST_STEP_SECONDS = 5
KEEP_SECONDS = 10.0
"""So long an answer serves every viewer."""
MOST_KEPT = 64
SITE = "umim_site"
"""Label that OpenTelemetry's attribute umim.site becomes."""


@dataclass(frozen=True)
class Curve:
    """A metric that is drawn for each site."""

    title: str
    unit: str
    metric: str
    """Pattern of the metric's name: an exporter may or may not append the unit."""


LOSS = Curve("Training loss", "loss", "umim_training_loss(_ratio)?")
SPEED = Curve("Training speed", "images a second", "umim_site_images_per_second")
CURVES = (LOSS, SPEED)


@dataclass(frozen=True)
class Answer:
    """What Prometheus knows of one curve: minutes since the start, and values."""

    series: tuple[Series, ...] = ()
    problem: str = ""
    """Why there is none: a sentence for people."""


class Prometheus:
    """Asks one Prometheus. An answer is kept for a while, so that many viewers cost one query."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._http = urllib3.PoolManager(timeout=TIMEOUT, retries=False, maxsize=4)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, datetime], tuple[float, Answer]] = {}
        self._silent_until = -math.inf
        """Until then no page waits for a Prometheus that has just not answered."""

    def curve(self, curve: Curve, sites: Sequence[str], start: datetime, end: datetime) -> Answer:
        """Return a curve of the first sites between two times. Never raises because Prometheus does not answer."""
        query = selector(curve, sites)
        with self._lock:  # one question at a time: the second viewer gets the first one's answer
            now = self._clock()
            kept = self._kept.get((query, start))
            if kept is not None and now - kept[0] < KEEP_SECONDS:
                return kept[1]
            if now < self._silent_until:
                return Answer(problem=SILENT)
            answer = self._ask(query, start, max(end, start + timedelta(seconds=1)))
            if answer.problem == SILENT:
                self._silent_until = self._clock() + KEEP_SECONDS
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[(query, start)] = (self._clock(), answer)
            return answer

    def _ask(self, query: str, start: datetime, end: datetime) -> Answer:
        step = max(LEAST_STEP_SECONDS, math.ceil((end - start).total_seconds() / POINTS))
        fields = {
            "query": query,
            "start": f"{start.timestamp():.3f}",
            "end": f"{end.timestamp():.3f}",
            "step": str(step),
        }
        try:
            response = self._http.request(
                "GET", f"{self.url}/api/v1/query_range", fields=fields, preload_content=False, redirect=False
            )
            try:
                data = response.read(MOST_BYTES + 1)
            finally:
                response.close()
            if len(data) > MOST_BYTES:
                return Answer(problem=f"Prometheus answers with more than {MOST_BYTES // 1024**2} MiB")
            return read_answer(response.status, data, start)
        except urllib3.exceptions.HTTPError as error:
            LOG.warning("Prometheus does not answer: %s", error)
            return Answer(problem=SILENT)


def selector(curve: Curve, sites: Sequence[str]) -> str:
    """Return the PromQL that selects a metric of the first sites. Sites are DNS names: a dot is all to be escaped."""
    names = "|".join(site.replace(".", "[.]") for site in sites[:MOST_SERIES])
    return f'max by ({SITE}) ({{__name__=~"{curve.metric}", {SITE}=~"{names}"}})'


def read_answer(status: int, data: bytes, start: datetime) -> Answer:
    """Return the series of an answer, sorted by site, or a sentence that says what is wrong with it."""
    try:
        body = json.loads(data)
        if status != 200 or body["status"] != "success":
            return Answer(problem=f"Prometheus refuses the query ({status}): {str(body.get('error', ''))[:200]}")
        found = [_series(one, start) for one in body["data"]["result"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return Answer(problem=f"what answers at console.prometheusUrl ({status}) is no Prometheus")
    return Answer(tuple(sorted((one for one in found if one.points), key=lambda one: one.name)))


def _series(one: Mapping[str, Any], start: datetime) -> Series:
    origin = start.timestamp()
    points: list[Point] = [((float(at) - origin) / 60, float(value)) for at, value in one["values"]]
    return Series(str(one["metric"][SITE]), tuple((x, y) for x, y in points if math.isfinite(y)))
