"""The linear probe of segmentation: from each position's features to the pixels of its patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, a position and standardised feature."""
THRESHOLDS = np.round(np.arange(0.02, 0.97, 0.02), 2)
"""Values of the regression tried, above which a pixel is foreground."""


@dataclass(frozen=True)
class _Moments:
    """Sums over positions from which a ridge regression follows."""

    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    count: int

    def without(self, other: _Moments) -> _Moments:
        return _Moments(self.gram - other.gram, self.cross - other.cross, self.count - other.count)

    def solve(self, penalty: float) -> NDArray[np.float64]:
        """Return weights (D + 1, P). The last row is the intercept and is not penalised."""
        ridge = np.full(len(self.gram), penalty * self.count)
        ridge[-1] = 0.0
        solution: NDArray[np.float64] = np.linalg.solve(self.gram + np.diag(ridge), self.cross)
        return solution


def segmentation_scores(
    maps_NDHW: NDArray[np.float32], masks_NSS: NDArray[np.uint8], test_maps_NDHW: NDArray[np.float32]
) -> tuple[NDArray[np.floating], float]:
    """Return scores (N, S, S) of the test images and the threshold above which a pixel is foreground.

    Ridge regression of the mask from standardised features, one linear map for all positions. Penalty and threshold
    are those with the highest mean Dice on the training images alone, on predictions for images that were left out
    in turn: up to 5 folds over images. One training image serves as its own fold.
    """
    mean = maps_NDHW.mean(axis=(0, 2, 3), dtype=np.float64)
    std = maps_NDHW.std(axis=(0, 2, 3), dtype=np.float64)
    std[std < 1e-8] = 1.0
    inputs, test_inputs = _positions(maps_NDHW, mean, std), _positions(test_maps_NDHW, mean, std)
    side = masks_NSS.shape[1] // maps_NDHW.shape[2]
    pixels = _patches(masks_NSS, side)
    penalty, threshold = _cross_validate(inputs, pixels)
    return _images(test_inputs @ _moments(inputs, pixels).solve(penalty), side), threshold


def _cross_validate(inputs: NDArray[np.float64], pixels: NDArray[np.float64]) -> tuple[float, float]:
    """Return the penalty and the threshold. Of equals the first counts: the smallest."""
    folds = np.arange(len(inputs)) % min(FOLDS, len(inputs))
    everything = _moments(inputs, pixels)
    parts = {int(fold): _moments(inputs[folds == fold], pixels[folds == fold]) for fold in np.unique(folds)}
    found: list[tuple[float, float, float]] = []
    for penalty in PENALTIES:
        predicted = np.empty_like(pixels)
        for fold, own in parts.items():
            rest = everything.without(own) if len(parts) > 1 else everything
            predicted[folds == fold] = inputs[folds == fold] @ rest.solve(penalty)
        scores_T = mean_dice_by_threshold(predicted, pixels > 0)
        best = int(scores_T.argmax())
        found.append((float(scores_T[best]), penalty, float(THRESHOLDS[best])))
    _, penalty, threshold = max(found, key=lambda one: one[0])
    return penalty, threshold


def mean_dice_by_threshold(scores: NDArray[np.float64], wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean Dice over images at each of ``THRESHOLDS`` (T,), for any layout (N, ...) of the pixels.

    As ``dice`` of ``scores > threshold``, in one pass: each pixel counts for all the thresholds below its score.
    """
    count, bins = len(scores), len(THRESHOLDS) + 1
    below = np.searchsorted(THRESHOLDS, scores.reshape(count, -1), side="left")
    cells = (np.arange(count)[:, None] * bins + below).reshape(-1)
    marked = wanted.reshape(-1)
    above = [
        np.bincount(chosen, minlength=count * bins).reshape(count, bins)[:, :0:-1].cumsum(axis=1)[:, ::-1]
        for chosen in (cells, cells[marked])
    ]
    foreground = wanted.reshape(count, -1).sum(axis=1)[:, None]
    result: NDArray[np.float64] = ((2 * above[1] + 1) / (above[0] + foreground + 1)).mean(axis=0)
    return result


def _moments(inputs: NDArray[np.float64], pixels: NDArray[np.float64]) -> _Moments:
    rows, wanted = inputs.reshape(-1, inputs.shape[-1]), pixels.reshape(-1, pixels.shape[-1])
    return _Moments(rows.T @ rows, rows.T @ wanted, len(rows))


def _positions(maps: NDArray[np.float32], mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, h, w, D + 1) standardised features and a one for the intercept."""
    last = (maps.transpose(0, 2, 3, 1) - mean) / std
    return np.concatenate([last, np.ones((*last.shape[:3], 1))], axis=3)


def _patches(masks: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Return (N, h, w, side * side) pixels of each position."""
    count, size, _ = masks.shape
    cells = masks.reshape(count, size // side, side, size // side, side).transpose(0, 1, 3, 2, 4)
    return cells.reshape(count, size // side, size // side, side * side).astype(np.float64)


def _images(patches: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return (N, S, S): the inverse of ``_patches``."""
    count, rows, columns, _ = patches.shape
    cells = patches.reshape(count, rows, columns, side, side).transpose(0, 1, 3, 2, 4)
    return cells.reshape(count, rows * side, columns * side)
