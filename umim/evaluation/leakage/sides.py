"""Which images a model is trained on: halves by patient, in pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from umim.data.dataset import ImageDataset
from umim.data.splits import split_by_patient
from umim.errors import DataError
from umim.training.seeds import derive


def twin_of(model: int) -> int:
    """Return the model that was trained on the other half."""
    return model ^ 1


def draw_sides(dataset: ImageDataset, models: int, seed: int) -> NDArray[np.bool_]:
    """Return (models, N): the images that each model is trained on.

    Models 2 i and 2 i + 1 are twins: a half of the patients, drawn within classes, and the other half. So each image
    is a member of every second model. A split that the source fixes is not kept. Raises DataError when there are too
    few patients, or those of a class are all in one half.
    """
    free = replace(dataset, validation=None)
    sides = np.zeros((models, len(dataset)), dtype=np.bool_)
    for first in range(0, models, 2):
        split = split_by_patient(free, 0.5, derive(seed, "sides", first))
        sides[first, split.train] = True
        sides[first + 1, split.validation] = True
    for members in sides:
        _check_classes(dataset, members)
    return sides


def at_most(dataset: ImageDataset, images: int, seed: int) -> ImageDataset:
    """Return whole patients, drawn by the seed, with at most so many images together, or the data set where it fits.

    Raises DataError when not even one patient fits.
    """
    if len(dataset) <= images:
        return dataset
    order = np.random.Generator(np.random.PCG64(derive(seed, "patients"))).permutation(np.unique(dataset.patients))
    taken = np.zeros(len(dataset), dtype=np.bool_)
    for patient in order:
        own = dataset.patients == patient
        if int((taken | own).sum()) <= images:
            taken |= own
    if not taken.any():
        raise DataError(f"every patient has more than {images} images: allow more with --images")
    targets = None if dataset.targets is None else dataset.targets[taken]
    return replace(
        dataset, images=dataset.images[taken], targets=targets, patients=dataset.patients[taken], validation=None
    )


def _check_classes(dataset: ImageDataset, members: NDArray[np.bool_]) -> None:
    if dataset.task != "classification" or dataset.targets is None:
        return
    missing = np.setdiff1d(np.arange(len(dataset.classes)), dataset.targets[members])
    if len(missing):
        raise DataError(
            f"class {dataset.classes[missing[0]]!r} is missing in a half of the patients; the audit needs two patients "
            "or more of each class among the images it looks at"
        )
