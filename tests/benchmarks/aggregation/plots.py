"""The pictures of the aggregation benchmark's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from tests.benchmarks.aggregation.plan import LIMIT, OURS

COLOURS = {OURS: "#c8702a", LIMIT: "#888888"}
PEER_COLOUR = "#3b6ea8"


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Write aggregation-mean.png and aggregation-growth.png."""
    _mean(found, folder / "aggregation-mean.png")
    _growth(found, folder / "aggregation-growth.png")


def _mean(found: Mapping[str, Any], path: Path) -> None:
    """Draw the seconds of every contender, in memory and file to file."""
    figure, both = plt.subplots(1, 2, figsize=(11, 4))
    for axes, mode, title in zip(both, ("bare", "file"), ("in memory", "file to file"), strict=True):
        group = next(one for one in found["groups"] if (one["rule"], one["mode"]) == ("mean", mode))
        rows = [row for row in group["rows"] if row["seconds"] is not None][::-1]
        seconds = [row["seconds"] for row in rows]
        bars = axes.barh(
            [f"{row['system']} {row['path']}" for row in rows],
            seconds,
            color=[COLOURS.get(row["system"], PEER_COLOUR) for row in rows],
        )
        axes.bar_label(bars, [f"{value:.2g}" for value in seconds], padding=2, fontsize=8)
        axes.margins(x=0.12)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("seconds")
        axes.set_title(f"Mean of {group['count']} x {group['architecture']}, {title}", fontsize=9)
    _save(figure, path)


def _growth(found: Mapping[str, Any], path: Path) -> None:
    """Draw time and peak memory against the number of updates."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.5))
    counts = [row["count"] for row in found["growth"]]
    for axes, values, label in (
        (left, [row["seconds"] for row in found["growth"]], "seconds"),
        (right, [row["peak_bytes"] / 1e6 for row in found["growth"]], "peak memory, MB"),
    ):
        axes.plot(counts, values, marker="o", color=COLOURS[OURS])
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("updates")
        axes.set_ylabel(label)
        axes.set_title("Mean, store to file, verified", fontsize=9)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    # Without the date and version that matplotlib adds, the same numbers give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
