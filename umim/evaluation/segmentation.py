"""The linear probe of segmentation: from each position's features to the pixels of its patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umim.evaluation.metrics import dice

FOLDS = 5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties tried, a position and standardised feature."""
THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(2, 49))


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

    Ridge regression of the mask from standardised features, one linear map for all positions. Penalty (least
    squared error) and threshold (highest mean Dice) are chosen on the training images alone, on predictions for
    images that were left out in turn: up to 5 folds over images. One training image serves as its own fold.
    """
    mean = maps_NDHW.mean(axis=(0, 2, 3), dtype=np.float64)
    std = maps_NDHW.std(axis=(0, 2, 3), dtype=np.float64)
    std[std < 1e-8] = 1.0
    inputs, test_inputs = _positions(maps_NDHW, mean, std), _positions(test_maps_NDHW, mean, std)
    side = masks_NSS.shape[1] // maps_NDHW.shape[2]
    pixels = _patches(masks_NSS, side)
    penalty, left_out = _cross_validate(inputs, pixels)
    everything = _moments(inputs, pixels)
    scores = _images(left_out, side)
    threshold = max(THRESHOLDS, key=lambda one: float(dice(scores > one, masks_NSS).mean()))
    return _images(test_inputs @ everything.solve(penalty), side), threshold


def _cross_validate(inputs: NDArray[np.float64], pixels: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the penalty and its predictions for images that were left out."""
    folds = np.arange(len(inputs)) % min(FOLDS, len(inputs))
    everything = _moments(inputs, pixels)
    parts = {int(fold): _moments(inputs[folds == fold], pixels[folds == fold]) for fold in np.unique(folds)}
    best: tuple[float, float, NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        predicted = np.empty_like(pixels)
        for fold, own in parts.items():
            rest = everything.without(own) if len(parts) > 1 else everything
            predicted[folds == fold] = inputs[folds == fold] @ rest.solve(penalty)
        error = float(np.square(predicted - pixels).mean())
        if best is None or error < best[0]:
            best = (error, penalty, predicted)
    assert best is not None  # there are penalties
    return best[1], best[2]


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
