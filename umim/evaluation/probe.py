"""The linear probe: how much a linear model can read from frozen features with few labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from umim.evaluation.draws import draw, number_of_draws
from umim.evaluation.features import Features, FeatureSet
from umim.evaluation.metrics import dice, macro_auroc, metric_of
from umim.evaluation.pack import one_hot
from umim.evaluation.segmentation import segmentation_scores

INVERSE_PENALTY = 0.3
"""scikit-learn's C. One value for every model and number of labels: on validation parts it was within 0.006 of the
best of 0.001 ... 10 at 10, 40 and all labels, and ahead of cross-validation inside few labels."""
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class ProbeResult:
    """Scores of one model on one data set at one number of labels."""

    score: float
    """Mean over the draws, in [0, 1]."""
    scores: tuple[float, ...]
    """One score a draw of labels."""
    metric: str
    """macro_auroc or dice."""
    train_images: int
    """Labelled images that a draw learns from (the mean over draws, rounded)."""
    test_images: int
    """Images that are judged."""


def linear_probe(
    features: Features, labels_per_class: int | None = None, draws: int | None = None, seed: int = 0
) -> ProbeResult:
    """Return how well a linear model on frozen features does, averaged over draws of the labels.

    ``labels_per_class`` None: all labels, once. ``draws`` None: 5. classification: standardised features,
    multinomial logistic regression with a fixed L2 penalty, macro-AUROC one class against the rest; multilabel: one
    logistic regression a label, macro-AUROC; segmentation: see ``segmentation_scores``, mean Dice. Whatever is
    fitted or chosen sees the drawn labels only. Raises DataError when a class has fewer labels.
    """
    train, count = features.train, number_of_draws(labels_per_class, draws)
    if labels_per_class is None:
        count = 1  # nothing is drawn: each draw would give the same
    scores, images = [], 0
    for number in range(count):
        chosen = draw(train.targets, features.task, features.classes, features.dataset, labels_per_class, number, seed)
        images += len(chosen)
        scores.append(_score(features, FeatureSet(train.features[chosen], train.targets[chosen])))
    return ProbeResult(
        float(np.mean(scores)), tuple(scores), metric_of(features.task), round(images / count), len(features.held_out)
    )


def _score(features: Features, labelled: FeatureSet) -> float:
    test = features.held_out
    if features.task == "segmentation":
        maps, threshold = segmentation_scores(labelled.features, labelled.targets.astype(np.uint8), test.features)
        return float(dice(maps > threshold, test.targets.astype(np.uint8)).mean())
    inputs, test_inputs = _standardised(labelled.features, test.features)
    if features.task == "multilabel":
        columns = [_logits(inputs, column, test_inputs)[:, 1] for column in labelled.targets.T]
        return macro_auroc(np.stack(columns, axis=1), one_hot(test.targets, len(features.classes)))
    logits = _logits(inputs, labelled.targets, test_inputs)
    return macro_auroc(logits, one_hot(test.targets, len(features.classes)))


def _logits(
    inputs: NDArray[np.float64], targets: NDArray[np.int64] | NDArray[np.uint8], test_inputs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of the test images."""
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS)
    probabilities: NDArray[np.float64] = model.fit(inputs, targets).predict_proba(test_inputs)
    return probabilities


def _standardised(
    train: NDArray[np.float32], test: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both in float64 with mean 0 and deviation 1 over ``train``; a constant feature becomes 0 there."""
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    std[std < 1e-8] = 1.0
    return (train - mean) / std, (test - mean) / std
