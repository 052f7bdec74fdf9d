"""Asks a real Prometheus, for tests and pictures."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any

TIMEOUT_SECONDS = 20


class PrometheusError(Exception):
    """Prometheus refused a query; the text is what it said."""


@dataclass(frozen=True)
class Series:
    """One series of an answer. values: (seconds since 1970, value)."""

    labels: dict[str, str]
    values: tuple[tuple[float, float], ...]

    @property
    def finite(self) -> tuple[tuple[float, float], ...]:
        """The values that are numbers: a quantile of nothing is none."""
        return tuple(point for point in self.values if math.isfinite(point[1]))

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1][1]


@dataclass(frozen=True)
class Prometheus:
    """One server."""

    url: str

    def query(self, expression: str) -> list[Series]:
        """Return what an instant query gives now. Raises PrometheusError."""
        found = self._get("query", query=expression)["result"]
        return [Series(item["metric"], (_point(item["value"]),)) for item in found]

    def range(self, expression: str, start: datetime, end: datetime, step: int) -> list[Series]:
        """Return what a range query gives, a value each ``step`` seconds. Raises PrometheusError."""
        times = {"start": start.timestamp(), "end": end.timestamp(), "step": step}
        found = self._get("query_range", query=expression, **times)["result"]
        return [Series(item["metric"], tuple(map(_point, item["values"]))) for item in found]

    def exemplars(self, expression: str, start: datetime, end: datetime) -> list[dict[str, str]]:
        """Return the labels of the exemplars of a query's series. Raises PrometheusError."""
        times = {"start": start.timestamp(), "end": end.timestamp()}
        found = self._get("query_exemplars", query=expression, **times)
        return [one["labels"] for series in found for one in series["exemplars"]]

    def rules(self) -> dict[str, str]:
        """Return the state of each alert by its name; "unhealthy" where a rule cannot be evaluated."""
        groups = self._get("rules")["groups"]
        return {
            rule["name"]: rule["state"] if rule["health"] == "ok" else f"unhealthy {rule.get('lastError', '')}".strip()
            for group in groups
            for rule in group["rules"]
        }

    def alerts(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that are pending or fire."""
        return [alert["labels"] for alert in self._get("alerts")["alerts"]]

    def _get(self, path: str, **parameters: object) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=TIMEOUT_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{parameters.get('query', path)}: {error.read().decode()}") from error


def _point(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
