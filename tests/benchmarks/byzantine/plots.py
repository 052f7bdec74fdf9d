"""The picture of the page: accuracy by rule and attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from tests.benchmarks.byzantine.attacks import ATTACKS
from tests.benchmarks.byzantine.cells import select
from tests.benchmarks.byzantine.experiment import NOBODY, RULES

COLUMNS = (NOBODY, *ATTACKS)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write a heat map for each number of liars and alpha."""
    alphas, liars = found["alphas"], found["liars"]
    figure, grid = plt.subplots(len(liars), len(alphas), figsize=(12, 12), sharex=True, sharey=True, squeeze=False)
    for number, row in zip(liars, grid, strict=True):
        for alpha, axes in zip(alphas, row, strict=True):
            image = _panel(axes, found, alpha, number)
            axes.set_title(f"{number} of {found['federation']['sites']} lie, Dirichlet({alpha})", fontsize=11)
    figure.tight_layout(rect=(0, 0, 0.93, 1))
    bar = figure.colorbar(image, cax=figure.add_axes((0.945, 0.3, 0.012, 0.4)))
    bar.set_label("test accuracy after the last round, %")
    # Without the date and version that matplotlib adds, the same numbers give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _panel(axes: Any, found: Mapping[str, Any], alpha: float, liars: int) -> Any:
    scores = np.full((len(RULES), len(COLUMNS)), np.nan)
    for row, rule in enumerate(RULES):
        for column, attack in enumerate(COLUMNS):
            value = select(found["cells"], "accuracy", alpha=alpha, liars=liars, rule=rule, attack=attack)
            scores[row, column] = 100 * value[0] if value else np.nan
            text = f"{scores[row, column]:.0f}" if value else "no\nmodel"
            dark = bool(value) and scores[row, column] < 55
            axes.text(column, row, text, ha="center", va="center", fontsize=8 if value else 6, color="wk"[not dark])
    axes.set_facecolor("#d0d0d0")
    axes.set_xticks(range(len(COLUMNS)), COLUMNS, rotation=30, ha="right")
    axes.set_yticks(range(len(RULES)), RULES)
    return axes.imshow(scores, vmin=10, vmax=95, cmap="viridis", aspect="auto")
