"""Which labels a probe gets: the same for every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from umim.api.hospital import Task
from umim.errors import DataError
from umim.training.seeds import derive

DEFAULT_DRAWS = 5
"""Draws of a number of labels. All labels leave nothing to draw."""


def number_of_draws(labels_per_class: int | None, draws: int | None) -> int:
    """Return ``draws``, or the default: 5 for a number of labels, 1 for all. Raises ValueError below 1."""
    if draws is None:
        return 1 if labels_per_class is None else DEFAULT_DRAWS
    if draws < 1:
        raise ValueError(f"draws is {draws}; allowed is 1 or more")
    return draws


def draw(
    targets: NDArray[np.int64] | NDArray[np.uint8],
    task: Task,
    classes: Sequence[str],
    dataset: str,
    labels_per_class: int | None,
    number: int,
    seed: int,
) -> NDArray[np.int64]:
    """Return the ascending numbers of the training images whose labels draw ``number`` may use; None: all.

    They depend on the targets, the data set's name, the number of labels, the draw and the seed, never on a model.
    classification: so many images of each class. multilabel: images until each label has so many positives, the
    first label first, and as many images without any label where there are some. segmentation: so many images with
    foreground. Raises DataError naming the class that has fewer.
    """
    if labels_per_class is None:
        return np.arange(len(targets), dtype=np.int64)
    if labels_per_class < 1:
        raise ValueError(f"labels_per_class is {labels_per_class}; allowed is 1 or more")
    random = np.random.Generator(np.random.PCG64(derive(seed, "labels", dataset, labels_per_class, number)))
    if task == "segmentation":
        marked = np.flatnonzero(targets.reshape(len(targets), -1).any(axis=1))
        return np.sort(_choose(random, marked, labels_per_class, f"{dataset}: images with foreground"))
    if task == "classification":
        chosen = [
            _choose(random, np.flatnonzero(targets == label), labels_per_class, f"{dataset}: images of class {name}")
            for label, name in enumerate(classes)
        ]
        return np.sort(np.concatenate(chosen))
    return _draw_multilabel(random, targets, classes, dataset, labels_per_class)


def _draw_multilabel(
    random: np.random.Generator,
    targets: NDArray[np.int64] | NDArray[np.uint8],
    classes: Sequence[str],
    dataset: str,
    wanted: int,
) -> NDArray[np.int64]:
    taken = np.zeros(len(targets), dtype=np.bool_)
    for label, name in enumerate(classes):
        positive = targets[:, label] > 0
        missing = wanted - int((positive & taken).sum())
        if missing > 0:
            what = f"{dataset}: further images of label {name}"
            taken[_choose(random, np.flatnonzero(positive & ~taken), missing, what)] = True
    without = np.flatnonzero(~targets.any(axis=1))
    taken[_choose(random, without, min(wanted, len(without)), dataset)] = True
    return np.flatnonzero(taken).astype(np.int64)


def _choose(random: np.random.Generator, among: NDArray[np.int64], count: int, what: str) -> NDArray[np.int64]:
    if len(among) < count:
        raise DataError(
            f"{what}: there are {len(among)} in the training part, fewer than the {count} that are asked for"
        )
    return random.permutation(among)[:count]
