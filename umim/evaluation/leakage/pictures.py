"""The audit's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from umim.evaluation.leakage.inversion import Gallery
from umim.evaluation.leakage.report import CURVES, PICTURE

STYLES = {"loss": ":", "calibrated": "-"}


def draw_curves(found: Mapping[str, Any], folder: Path) -> None:
    """Write membership.png: true over false positives on logarithmic axes (Carlini et al. 2022), from the JSON."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5))
    rates = found["membership"]["falsePositives"]
    names = [one["name"] for one in found["settings"]["defences"]]
    for one in found["membership"]["attacks"]:
        colour = f"C{names.index(one['defence'])}"
        kept = [max(value, rates[0]) for value in one["curve"]]
        axes.plot(rates, kept, STYLES[one["attack"]], color=colour, label=f"{one['defence']}, {one['attack']}")
    axes.plot(rates, rates, color="black", linewidth=0.8, label="guessing")
    axes.set(xscale="log", yscale="log", xlabel="false positives", ylabel="true positives")
    axes.legend(fontsize=8)
    _save(figure, folder / CURVES)


def draw_gallery(gallery: Gallery, folder: Path) -> None:
    """Write reconstructions.png: a row a scenario, the original on the left. It shows images of the hospital."""
    columns = list(dict.fromkeys((one.defence, one.attack) for one in gallery.rows))
    found = {(one.scenario, one.defence, one.attack): one for one in gallery.rows}
    size = (1.5 * (len(columns) + 1), 1.75 * len(gallery.originals))
    figure, grid = plt.subplots(len(gallery.originals), len(columns) + 1, figsize=size, squeeze=False)
    for axes, (scenario, original) in zip(grid, gallery.originals.items(), strict=True):
        _show(axes[0], original, "original")
        axes[0].set_ylabel(scenario.replace(", ", "\n"), fontsize=7)
        for place, column in zip(axes[1:], columns, strict=True):
            one = found.get((scenario, *column))
            if one is None:
                place.axis("off")
                continue
            _show(place, one.example, f"{one.defence}\n{one.attack}")
    _save(figure, folder / PICTURE)


def _show(axes: Any, image_CHW: NDArray[np.float64], title: str) -> None:
    if len(image_CHW) == 1:
        axes.imshow(image_CHW[0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(np.moveaxis(image_CHW, 0, 2))
    axes.set_title(title, fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
