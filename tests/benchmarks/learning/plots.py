"""The pictures of the learning benchmark's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from tests.benchmarks.learning.protocol import TITLES

COLOURS = {"A1": "#3b6ea8", "A2": "#c8702a"}


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Write learning-differences.png and learning-curves.png."""
    _differences(found, folder / "learning-differences.png")
    _curves(found, folder / "learning-curves.png")


def _differences(found: Mapping[str, Any], path: Path) -> None:
    """Draw A4 minus A1 and A2 for each domain, a dot a seed and a bar for their mean."""
    figure, axes = plt.subplots(figsize=(8, 4))
    against = [arm for arm in COLOURS if arm in found["means"]["linear@10"]]
    domains = sorted(found["comparisons"]["linear@10"][f"A4-{against[0]}"]["differences"])
    records = {(one["arm"], one["seed"]): one["scores"] for one in found["records"]}
    for number, arm in enumerate(against):
        offset = (number - (len(against) - 1) / 2) * 0.38
        means = found["comparisons"]["linear@10"][f"A4-{arm}"]["differences"]
        places = [index + offset for index in range(len(domains))]
        axes.bar(
            places, [means[name] for name in domains], 0.34, color=COLOURS[arm], alpha=0.6, label=f"A4 - {arm} (mean)"
        )
        for place, name in zip(places, domains, strict=True):
            dots = [
                records["A4", seed][name]["linear@10"] - records[arm, seed][name]["linear@10"]
                for seed in found["seeds"]
            ]
            axes.plot([place] * len(dots), dots, ".", color="black", markersize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(domains)), domains)
    axes.set_ylabel("difference of AUROC or Dice")
    axes.set_title("Linear probe, 10 labels a class: a bar is the mean over seeds, a dot one seed", fontsize=10)
    axes.legend(loc="upper left")
    _save(figure, path)


def _curves(found: Mapping[str, Any], path: Path) -> None:
    """Draw the mean over the domains after each round."""
    figure, axes = plt.subplots(figsize=(8, 4))
    for arm, values in found["curves"].items():
        axes.plot(range(1, len(values) + 1), values, marker="o", label=f"{arm}: {TITLES[arm]}")
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean over the domains")
    axes.set_title("Linear probe, 10 labels a class, after each round", fontsize=10)
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    # Without the date and version that matplotlib adds, the same numbers give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
