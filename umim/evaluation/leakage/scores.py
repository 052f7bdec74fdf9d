"""Judging a membership attack. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

LOW_FALSE_POSITIVES = 0.01
"""False positives that an attack may make where it has to be sure (Carlini et al. 2022, section III)."""
GRID = tuple(float(value) for value in np.round(np.geomspace(0.001, 1, 40), 6))
"""False positive rates at which curves are kept."""
SMALLEST_DEVIATION = 1e-6

Floats = NDArray[np.float64]


def auroc(scores_N: Floats, members_N: NDArray[np.bool_]) -> float:
    """Return the chance that a random member scores above a random non-member. 0.5 is guessing."""
    return float(roc_auc_score(members_N, scores_N))


def true_positives(scores_N: Floats, members_N: NDArray[np.bool_], false_positives: float) -> float:
    """Return the largest share of members found by a threshold with at most this share of non-members above it."""
    return _read_off(scores_N, members_N, [false_positives])[0]


def curve(scores_N: Floats, members_N: NDArray[np.bool_]) -> list[float]:
    """Return ``true_positives`` at each rate of ``GRID``."""
    return _read_off(scores_N, members_N, GRID)


def logit(losses: Floats) -> Floats:
    """Return log(p / (1 - p)) for losses -log(p): nearly normal over models (Carlini et al. 2022, section IV-C)."""
    bounded = np.clip(losses, 1e-12, 700)
    return np.asarray(-np.log(np.expm1(bounded)), dtype=np.float64)


def calibrated(confidences_KN: Floats, members_KN: NDArray[np.bool_], target: int, twin: int) -> Floats:
    """Return the offline likelihood ratio score (N,) of each image in model ``target`` (Carlini et al. 2022, LiRA).

    The models besides the target and its twin are the shadows. An image's score is how many deviations its confidence
    in the target is above the mean of the shadows that were trained without it; the deviation is one for all images,
    as is advised for few shadows. With the twin, which was trained on the other half, left out, members and
    non-members have equally many shadows. Raises ValueError when an image has none.
    """
    others = [model for model in range(len(confidences_KN)) if model not in (target, twin)]
    out_KN = ~members_KN[others]
    counts_N = out_KN.sum(axis=0)
    if not counts_N.all():
        raise ValueError(f"{int((counts_N == 0).sum())} images are in every shadow; allowed are none")
    shadows_KN = confidences_KN[others]
    mean_N = np.where(out_KN, shadows_KN, 0.0).sum(axis=0) / counts_N
    deviation = float(np.sqrt(np.mean((shadows_KN - mean_N)[out_KN] ** 2)))
    return np.asarray((confidences_KN[target] - mean_N) / max(deviation, SMALLEST_DEVIATION), dtype=np.float64)


def _read_off(scores_N: Floats, members_N: NDArray[np.bool_], rates: Sequence[float]) -> list[float]:
    wrong, right, _ = roc_curve(members_N, scores_N, drop_intermediate=False)
    return [float(right[wrong <= rate].max()) for rate in rates]
