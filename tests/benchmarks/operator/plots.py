"""The picture of the page: duration of each look and memory of the operator, by time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write one column a load: looks above, memory below."""
    loads = found["loads"]
    size = (3.4 * len(loads), 5.6)
    figure, grid = plt.subplots(2, len(loads), figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, (name, row) in enumerate(loads.items()):
        looks, memory = grid[0][column], grid[1][column]
        each = row["series"]["reconcile_s"]
        looks.scatter([at for at, _ in each], [max(seconds, 0.001) for _, seconds in each], s=7, color="#1f5f8b")
        looks.axhline(row["reconcile_s"]["p99"], color="#c0392b", linewidth=1, linestyle="--")
        looks.set_yscale("log")
        sites = row["sites"] // row["rounds"]
        looks.set_title(f"{name}: {row['rounds']} x {sites} hospitals", fontsize=10)
        series = row["series"]["rss_mib"]
        memory.plot([at for at, _ in series], [value for _, value in series], color="#1f5f8b")
        memory.set_xlabel("seconds")
        for axes in (looks, memory):
            axes.grid(alpha=0.3)
    grid[1][0].set_ylim(0, 1.1 * max(row["operator"]["rss_mib_most"] for row in loads.values()))
    grid[0][0].set_ylabel("one look, s (dashed: p99)")
    grid[1][0].set_ylabel("memory of the operator, MiB")
    figure.tight_layout()
    # Without the date and version that matplotlib adds, the same numbers give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
