"""The one in-memory form that every source is read into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from umim.api.hospital import Task
from umim.data.limits import MOST_CLASSES, MOST_FILES, check_limit
from umim.data.pixels import resize, resize_mask
from umim.errors import DataError

Report = Callable[[int, int], None]
"""Told how many files (or images) were read, of how many."""


@dataclass(frozen=True)
class Sample:
    """One image as a source reads it."""

    image: NDArray[np.uint8]
    """(H, W) grey or (H, W, 3) colour."""
    patient: str
    """Key of the patient. Used only to keep a patient's images on one side of the split."""
    label: str | None = None
    """Class name, or names joined by ``|`` for several labels. None: the source has no labels."""
    mask: NDArray[np.uint8] | None = None
    """(H, W), foreground where above 0."""
    validation: bool | None = None
    """Side that the source fixes (npz with val_*). None: the split decides."""


@dataclass(frozen=True)
class ImageDataset:
    """All images of one site, resized, as 8-bit values: one byte a pixel and channel bounds the memory."""

    images: NDArray[np.uint8]
    """(N, C, S, S) with C 1 (all grey) or 3. Grey is repeated to 3 channels in the batch."""
    task: Task
    """What ``targets`` holds."""
    targets: NDArray[np.int64] | NDArray[np.uint8] | None
    """classification: (N,) int64 class numbers; multilabel: (N, K) uint8 {0, 1}; segmentation: (N, S, S) uint8
    {0, 1}; none: None."""
    classes: tuple[str, ...]
    """Class names in label order. Empty without classes."""
    patients: NDArray[np.int64]
    """(N,) numbers of the patients, from 0 in sorted order of their keys. The keys themselves are not kept."""
    validation: NDArray[np.bool_] | None = None
    """(N,) the sides that the source fixes, or None."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def patient_count(self) -> int:
        """Number of different patients."""
        return len(np.unique(self.patients))


def collect(samples: Iterable[Sample], task: Task, image_size: int, origin: str) -> ImageDataset:
    """Read all samples, resize them to ``image_size`` and number labels and patients.

    ``origin`` names the data in messages. Raises DataError when there is no image, or too many, or the labels
    do not fit the task: classification needs at least two classes, multilabel at least one label.
    """
    images: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    patients: list[str] = []
    sides: list[bool | None] = []
    for sample in samples:
        images.append(resize(sample.image, image_size))
        check_limit(f"{origin}: number of images", len(images), MOST_FILES)
        patients.append(sample.patient)
        sides.append(sample.validation)
        if sample.mask is not None:
            masks.append(resize_mask(sample.mask, image_size))
        if sample.label is not None:
            labels.append(sample.label)
    if not images:
        raise DataError(f"{origin} holds no image")
    targets, classes = _targets(task, labels, masks, len(images), origin)
    _, numbers = np.unique(np.asarray(patients), return_inverse=True)
    return ImageDataset(
        images=_stack(images),
        task=task,
        targets=targets,
        classes=classes,
        patients=numbers.astype(np.int64).reshape(-1),
        validation=None if None in sides else np.asarray(sides, dtype=np.bool_),
    )


def _stack(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack (C, S, S) images, repeating grey when some are coloured; frees each image as it is copied."""
    channels = max(len(image) for image in images)
    result = np.empty((len(images), channels, *images[0].shape[1:]), dtype=np.uint8)
    for index in range(len(images)):
        result[index] = images[index]  # (1, S, S) is repeated to (3, S, S) by broadcasting
        images[index] = result[index, :0]
    return result


def _targets(
    task: Task, labels: list[str], masks: list[NDArray[np.uint8]], count: int, origin: str
) -> tuple[NDArray[np.int64] | NDArray[np.uint8] | None, tuple[str, ...]]:
    if task == "none":
        return None, ()
    if task == "segmentation":
        if len(masks) != count:
            raise DataError(
                f"{origin}: {count - len(masks)} of {count} images have no mask; segmentation needs one each"
            )
        stacked = np.stack(masks)
        if not stacked.any():
            raise DataError(f"{origin}: all {count} masks are empty; segmentation needs masks with values above 0")
        return stacked, ("foreground",)
    if len(labels) != count:
        raise DataError(f"{origin}: {count - len(labels)} of {count} images have no label; task {task} needs one each")
    if task == "classification":
        return _classification(labels, origin)
    return _multilabel(labels, origin)


def _classification(labels: list[str], origin: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = _label_order(set(labels))
    if len(classes) < 2:
        raise DataError(
            f"{origin}: all {len(labels)} images have the label {classes[0]!r}; allowed are two classes or more"
        )
    check_limit(f"{origin}: number of classes", len(classes), MOST_CLASSES)
    number = {name: index for index, name in enumerate(classes)}
    return np.asarray([number[label] for label in labels], dtype=np.int64), classes


def _multilabel(labels: list[str], origin: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    sets = [{part for part in label.split("|") if part} for label in labels]
    classes = _label_order(set().union(*sets))
    if not classes:
        raise DataError(f"{origin}: no image has a label; task multilabel needs labels such as a|b")
    check_limit(f"{origin}: number of labels", len(classes), MOST_CLASSES)
    return np.asarray([[name in given for name in classes] for given in sets], dtype=np.uint8), classes


def _label_order(names: set[str]) -> tuple[str, ...]:
    """Sort class names: as numbers when all are whole numbers, else as text."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
