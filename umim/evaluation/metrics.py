"""Scores of predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from umim.api.hospital import Task

AUROC = "macro_auroc"
DICE = "dice"


def metric_of(task: Task) -> str:
    """Return the name of a task's score."""
    return DICE if task == "segmentation" else AUROC


def macro_auroc(scores_NK: NDArray[np.floating], targets_NK: NDArray[np.integer]) -> float:
    """Return the mean over classes (or labels) of the area under the ROC curve of this class against the rest.

    Each column of ``targets_NK`` {0, 1} must hold both values. With two classes whose scores add up to a constant
    this is the usual AUROC.
    """
    return float(roc_auc_score(targets_NK, scores_NK, average="macro"))


def dice(predicted_NHW: NDArray[np.bool_], targets_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Dice per image (N,), smoothed by one pixel as in ``SegmentationHead``: 1 where both masks are empty."""
    wanted = targets_NHW > 0
    overlap = (predicted_NHW & wanted).sum(axis=(1, 2))
    total = predicted_NHW.sum(axis=(1, 2)) + wanted.sum(axis=(1, 2))
    return np.asarray((2 * overlap + 1) / (total + 1), dtype=np.float64)
