"""NumPy archives in the form of MedMNIST (https://medmnist.com): train_images, train_labels, val_*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umim.api.hospital import Task
from umim.api.jobs import DatasetLocation
from umim.data.archive import Archive, open_archive
from umim.data.dataset import Report, Sample
from umim.data.limits import MOST_CLASSES, MOST_FILES, check_limit, check_size
from umim.errors import DataError

LABELS = "labels"
MASKS = "masks"


def read_npz(location: DatasetLocation, report: Report) -> Iterator[Sample]:
    """Yield the training (and validation) images of an archive; test_* is never read.

    Arrays: train_images (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8 (or images, for task none); train_labels
    (N,) or (N, 1) whole numbers, (N, K) {0, 1} for multilabel; train_masks (N, H, W); train_patients or
    train_groups (N,). With val_images the archive fixes the split. Raises DataError naming the array.
    """
    path = _archive(Path(location.path))
    if location.labels_file is not None:
        raise DataError(
            f"spec.data.labelsFile {location.labels_file!r}: not allowed with format npz, whose labels are inside",
            public="spec.data.labelsFile is not allowed with format npz, whose labels are inside",
        )
    with open_archive(path) as archive:
        yield from _samples(path, archive, location.task, report)


def _archive(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if len(files) != 1:
            raise DataError(
                f"{path} holds {len(files)} npz files; set spec.data.path to one of them",
                public="spec.data.path names a folder without exactly one npz file",
            )
        path = files[0]
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: set spec.data.path to an npz file inside the volume",
            public="spec.data.path names no npz file inside the volume",
        )
    return path


def _samples(path: Path, archive: Archive, task: Task, report: Report) -> Iterator[Sample]:
    names: list[str] = archive.files
    if "train_images" in names:
        parts = [name for name in ("train", "val") if f"{name}_images" in names]
    elif "images" in names and task == "none":
        parts = [""]
    else:
        raise DataError(f"{path.name} has no array train_images; it has: {', '.join(sorted(names))}")
    fixed = "val" in parts
    for part in parts:
        prefix = f"{part}_" if part else ""
        images = images_of(path, archive, f"{prefix}images")
        labels, masks = _targets(path, archive, prefix, task, images.shape)
        patients = patients_of(path, archive, prefix, len(images))
        for index in range(len(images)):
            yield Sample(
                images[index],
                patients[index],
                labels[index] if labels is not None else None,
                masks[index] if masks is not None else None,
                validation=(part == "val") if fixed else None,
            )
        report(len(images), len(images))


def array_of(path: Path, archive: Archive, name: str) -> NDArray[Any]:
    """Return an array of an open archive. Raises DataError naming the arrays that there are."""
    if name not in archive.files:
        raise DataError(f"{path.name} has no array {name}; it has: {', '.join(sorted(archive.files))}")
    return archive[name]


def images_of(path: Path, archive: Archive, name: str) -> NDArray[np.uint8]:
    """Return images (N, H, W) or (N, H, W, 3). Raises DataError for another type or shape, or too large ones."""
    images = array_of(path, archive, name)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise DataError(
            f"{path.name}: {name} is {images.dtype} {images.shape}; allowed is uint8 (N, H, W) or (N, H, W, 1 or 3)"
        )
    check_limit(f"{path.name}: {name} has images", len(images), MOST_FILES, least=0)
    if len(images):
        check_size(f"{path.name}: {name}", *images.shape[1:3])
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _targets(
    path: Path, archive: Archive, prefix: str, task: Task, shape: tuple[int, ...]
) -> tuple[list[str] | None, NDArray[np.uint8] | None]:
    if task == "none":
        return None, None
    if task == "segmentation":
        return None, masks_of(path, archive, prefix + MASKS, shape)
    labels = array_of(path, archive, prefix + LABELS)
    if labels.dtype.kind not in "uib" or labels.shape[:1] != shape[:1] or labels.ndim not in (1, 2):
        raise DataError(
            f"{path.name}: {prefix}{LABELS} is {labels.dtype} {labels.shape}; allowed are whole numbers ({shape[0]},)"
        )
    if task == "multilabel":
        check_limit(f"{path.name}: {prefix}{LABELS} has columns", labels.size // max(1, len(labels)), MOST_CLASSES)
        columns = labels.reshape(len(labels), -1)
        return ["|".join(str(number) for number in np.flatnonzero(row)) for row in columns], None
    if labels.size != len(labels):
        raise DataError(f"{path.name}: {prefix}{LABELS} has {labels.shape[1]} columns; classification allows one")
    if labels.min(initial=0) < 0:
        raise DataError(f"{path.name}: {prefix}{LABELS} holds {labels.min()}; allowed are class numbers from 0")
    return [str(int(label)) for label in labels.reshape(-1)], None


def masks_of(path: Path, archive: Archive, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return masks (N, H, W) {0, 1}, foreground where above 0, for images of a shape. Raises DataError for others."""
    masks = array_of(path, archive, name)
    if masks.shape != shape[:3] or masks.dtype.kind not in "uib":
        raise DataError(f"{path.name}: {name} is {masks.dtype} {masks.shape}; allowed are whole numbers {shape[:3]}")
    return (masks > 0).astype(np.uint8)


def patients_of(path: Path, archive: Archive, prefix: str, count: int) -> list[str]:
    """Return patient keys. Without an array for them each image counts as a patient of its own."""
    for name in (f"{prefix}patients", f"{prefix}groups"):
        if name in archive.files:
            groups = archive[name]
            if groups.shape != (count,):
                raise DataError(f"{path.name}: {name} has the shape {groups.shape}; allowed is ({count},)")
            return [f"group {group}" for group in groups.tolist()]
    return [f"{prefix}image {index}" for index in range(count)]
