"""The summary, and the files of a result: operator.json, operator.md and the plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.operator.page import page
from tests.benchmarks.operator.plots import draw

Found = Mapping[str, Any]
COUNTED = ("alone", "crowd", "large")
"""Loads of the summary. Throttled ones are tried again on purpose."""


def summary(loads: Found) -> dict[str, float | None]:
    """Return the figures by which a run is compared with others."""
    counted = [loads[name] for name in COUNTED if name in loads] or list(loads.values())
    calls, sites = (sum(part) for part in zip(*((row["api"]["calls"], row["sites"]) for row in counted), strict=True))
    return {
        "api_calls_per_site": round(calls / sites, 2),
        "p99_reconcile_s": max(row["reconcile_s"]["p99"] for row in counted),
        "operator_rss_mib": max(row["operator"]["rss_mib_most"] for row in loads.values()),
        "overhead_s_round_of_8": loads["alone"]["overhead_s"]["median"] if "alone" in loads else None,
    }


def write(found: Found, folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {**found, "loads": {name: _without_series(row) for name, row in found["loads"].items()}}
    (folder / "operator.json").write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
    (folder / "operator.md").write_text(page(found))
    draw(found, folder / "operator.png")


def _without_series(row: Found) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "series"}
