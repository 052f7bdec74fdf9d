"""Labelled data sets with a training and a test part, as ``umim evaluate`` and the benchmark read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umim.api.hospital import Task
from umim.artifacts.files import sha256_of
from umim.data.archive import Archive, open_archive
from umim.data.dataset import ImageDataset
from umim.data.npz import array_of, images_of, masks_of, patients_of
from umim.data.pixels import resize, resize_mask
from umim.data.splits import split_by_patient
from umim.errors import DataError
from umim.training.seeds import derive

HeldOut = Literal["test", "validation"]
"""What a model is judged on: the test part, or a validation part that is carved out of the training part."""
VALIDATION_FRACTION = 0.25
"""Share of the training part's groups that the validation part gets."""


@dataclass(frozen=True)
class Part:
    """One side of a pack, as it is stored."""

    images: NDArray[np.uint8]
    """(N, H, W) grey or (N, H, W, 3) colour."""
    targets: NDArray[np.int64] | NDArray[np.uint8]
    """classification: (N,) int64 numbers into ``Pack.classes``; multilabel: (N, K) uint8 {0, 1}; segmentation:
    (N, H, W) uint8 {0, 1}."""
    groups: NDArray[np.int64]
    """(N,) numbers of the patients (or groups). They count over both parts of a pack."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Pack:
    """A labelled data set. No group is in both parts."""

    name: str
    """Name of the file without its ending. It seeds the draws of labels."""
    digest: str
    """sha256 of the file."""
    task: Task
    """classification, multilabel or segmentation."""
    classes: tuple[str, ...]
    """classification: the labels in ascending order; multilabel: the columns; segmentation: ("foreground",)."""
    train: Part
    """What a probe may learn from."""
    test: Part
    """What it is judged on."""


def load_pack(path: Path | str) -> Pack:
    """Read an npz archive with train_images and test_images (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8.

    The targets say the task: *_masks (N, H, W) is segmentation, *_labels (N,) or (N, 1) whole numbers from 0 is
    classification, *_labels (N, K) {0, 1} is multilabel. *_groups or *_patients (N,) name what may not be on both
    sides; without them each image counts as a group. Raises DataError naming the file and the array.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file: give an npz archive")
    with open_archive(path) as archive:
        return _read(path, archive)


def datasets(pack: Pack, image_size: int, held_out: HeldOut) -> tuple[ImageDataset, ImageDataset]:
    """Return the images to learn from and those to judge on, resized to ``image_size``.

    "test" is the pack's test part. "validation" leaves the test part alone: it is 25 % of the training part's
    groups, drawn within classes by the pack's name alone, and the rest is learned from. Raises DataError when a
    side lacks a class.
    """
    train = _resized(pack, pack.train, image_size)
    if held_out == "test":
        return train, _resized(pack, pack.test, image_size)
    split = split_by_patient(train, VALIDATION_FRACTION, derive(0, "validation part", pack.name))
    chosen, held = _subset(train, split.train), _subset(train, split.validation)
    _check_classes(f"{pack.name}: the training part without its validation part", chosen.targets, pack)
    _check_classes(f"{pack.name}: the validation part", held.targets, pack)
    return chosen, held


def _read(path: Path, archive: Archive) -> Pack:
    task = _task(path, archive)
    images = {side: images_of(path, archive, f"{side}_images") for side in ("train", "test")}
    for side, found in images.items():
        if not len(found):
            raise DataError(f"{path.name}: {side}_images holds no image")
    reader = {"segmentation": _masks, "multilabel": _multilabel, "classification": _labels}[task]
    targets, classes = reader(path, archive, {side: found.shape for side, found in images.items()})
    train, test = (Part(images[side], targets[side], groups) for side, groups in _groups(path, archive, images))
    pack = Pack(path.stem, sha256_of(path), task, classes, train, test)
    for side, part in (("train", train), ("test", test)):
        _check_classes(f"{path.name}: {side}_{'masks' if task == 'segmentation' else 'labels'}", part.targets, pack)
    return pack


def _task(path: Path, archive: Archive) -> Task:
    labels, masks = "train_labels" in archive.files, "train_masks" in archive.files
    if labels == masks:
        found = "both train_labels and train_masks" if labels else "neither train_labels nor train_masks"
        raise DataError(f"{path.name} has {found}; allowed is one of them. It has: {', '.join(sorted(archive.files))}")
    if masks:
        return "segmentation"
    shape = array_of(path, archive, "train_labels").shape
    return "multilabel" if len(shape) == 2 and shape[1] > 1 else "classification"


Shapes = dict[str, tuple[int, ...]]
Targets = tuple[dict[str, Any], tuple[str, ...]]
"""Targets by side, and the classes' names."""


def _masks(path: Path, archive: Archive, shapes: Shapes) -> Targets:
    return {side: masks_of(path, archive, f"{side}_masks", shape) for side, shape in shapes.items()}, ("foreground",)


def _labels(path: Path, archive: Archive, shapes: Shapes) -> Targets:
    found = {}
    for side, shape in shapes.items():
        labels = _whole_numbers(path, archive, f"{side}_labels", shape[0])
        if labels.size != shape[0]:
            raise DataError(f"{path.name}: {side}_labels has the shape {labels.shape}; allowed is ({shape[0]},)")
        if labels.min() < 0:
            raise DataError(f"{path.name}: {side}_labels holds {labels.min()}; allowed are class numbers from 0")
        found[side] = labels.reshape(-1).astype(np.int64)
    numbers = np.unique(np.concatenate(list(found.values())))
    if len(numbers) < 2:
        raise DataError(f"{path.name}: all labels are {numbers[0]}; allowed are two classes or more")
    return {side: np.searchsorted(numbers, labels) for side, labels in found.items()}, tuple(map(str, numbers))


def _multilabel(path: Path, archive: Archive, shapes: Shapes) -> Targets:
    result: dict[str, NDArray[np.uint8]] = {}
    columns = array_of(path, archive, "train_labels").shape[1]
    for side, shape in shapes.items():
        labels = _whole_numbers(path, archive, f"{side}_labels", shape[0])
        if labels.shape != (shape[0], columns):
            raise DataError(
                f"{path.name}: {side}_labels has the shape {labels.shape}; allowed is {(shape[0], columns)}"
            )
        if labels.min() < 0 or labels.max() > 1:
            raise DataError(
                f"{path.name}: {side}_labels holds {labels.min()} to {labels.max()}; several labels an image allow 0 "
                "and 1"
            )
        result[side] = labels.astype(np.uint8)
    return result, tuple(str(column) for column in range(columns))


def _whole_numbers(path: Path, archive: Archive, name: str, count: int) -> NDArray[Any]:
    labels = array_of(path, archive, name)
    if labels.dtype.kind not in "uib" or labels.shape[:1] != (count,) or labels.ndim not in (1, 2):
        raise DataError(
            f"{path.name}: {name} is {labels.dtype} {labels.shape}; allowed are whole numbers, one row for each of "
            f"the {count} images"
        )
    return labels


def _groups(path: Path, archive: Archive, images: dict[str, Any]) -> list[tuple[str, NDArray[np.int64]]]:
    keys = {side: patients_of(path, archive, f"{side}_", len(found)) for side, found in images.items()}
    shared = sorted(set(keys["train"]) & set(keys["test"]))
    if shared:
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise DataError(f"{path.name}: {shared[0]}{more} occurs in the training and in the test part; allowed is one")
    _, numbers = np.unique(np.asarray(keys["train"] + keys["test"]), return_inverse=True)
    train, test = np.split(numbers.astype(np.int64), [len(keys["train"])])
    return [("train", train), ("test", test)]


def _check_classes(what: str, targets: Any, pack: Pack) -> None:
    """Raise DataError unless each class (label) has images with and without it: else no score of it exists."""
    if pack.task == "segmentation":
        if not targets.any() or targets.all():
            raise DataError(f"{what}: all pixels are {'background' if not targets.any() else 'foreground'}")
        return
    with_it = one_hot(targets, len(pack.classes)).sum(axis=0).tolist()
    for count, which in ((0, "no image is"), (len(targets), "all images are")):
        if count in with_it:
            name = pack.classes[with_it.index(count)]
            raise DataError(f"{what}: {which} of class {name}; a score needs images of it and of others")


def one_hot(targets: Any, classes: int) -> NDArray[np.int64]:
    """Return (N, K) {0, 1} from class numbers (N,); what has columns already stays."""
    if targets.ndim == 2:
        return np.asarray(targets, dtype=np.int64)
    return np.asarray(targets[:, None] == np.arange(classes), dtype=np.int64)


def _resized(pack: Pack, part: Part, size: int) -> ImageDataset:
    images = np.stack([resize(image, size) for image in part.images])
    targets = part.targets
    if pack.task == "segmentation":
        targets = np.stack([resize_mask(mask, size) for mask in part.targets.astype(np.uint8)])
    return ImageDataset(images, pack.task, targets, pack.classes, part.groups)


def _subset(dataset: ImageDataset, indices: NDArray[np.int64]) -> ImageDataset:
    assert dataset.targets is not None  # a pack has targets
    return ImageDataset(
        dataset.images[indices],
        dataset.task,
        dataset.targets[indices],
        dataset.classes,
        dataset.patients[indices],
    )
