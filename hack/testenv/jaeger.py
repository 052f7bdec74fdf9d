"""Asks a Jaeger for a trace, over the HTTP API that its own pages use."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Span:
    """One span of a trace. start: seconds since 1970. parent: id of the span that it belongs to, if any."""

    id: str
    parent: str | None
    service: str
    name: str
    start: float
    seconds: float


@dataclass(frozen=True)
class Jaeger:
    """A Jaeger at a base URL."""

    url: str

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace by their start; none: Jaeger has not seen it."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/traces/{trace_id}", timeout=TIMEOUT_SECONDS) as answer:
                (found,) = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        services = {key: process["serviceName"] for key, process in found["processes"].items()}
        spans = [_span(one, services) for one in found["spans"]]
        return sorted(spans, key=lambda span: (span.start, span.id))


def _span(body: dict[str, Any], services: dict[str, str]) -> Span:
    # A link to a span of another trace is a reference, too, of type FOLLOWS_FROM.
    parents = [one["spanID"] for one in body["references"] if one["refType"] == "CHILD_OF"]
    return Span(
        id=body["spanID"],
        parent=parents[0] if parents else None,
        service=services[body["processID"]],
        name=body["operationName"],
        start=body["startTime"] / 1e6,
        seconds=body["duration"] / 1e6,
    )
