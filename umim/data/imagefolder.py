"""Image files (PNG, JPEG, TIFF, BMP, WebP) with folder names or a CSV as labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from umim.api.jobs import DatasetLocation
from umim.data.dataset import Report, Sample
from umim.data.entries import Entry, find_entries
from umim.data.pixels import scale_range
from umim.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


def read_imagefolder(location: DatasetLocation, report: Report) -> Iterator[Sample]:
    """Yield the images of a folder. Without a patient column each image counts as a patient of its own.

    Raises DataError naming the file that cannot be read.
    """
    root = Path(location.path)
    entries = find_entries(root, location.labels_file, location.task, is_image)
    for number, entry in enumerate(entries, start=1):
        image = read_image(entry.path)
        patient = entry.patient or f"file {entry.path.relative_to(root)}"
        yield Sample(image, patient, entry.label, read_mask(entry, image.shape))
        report(number, len(entries))


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as (H, W) grey or (H, W, 3) colour. 16-bit grey is scaled by its type's range."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return _deep(np.asarray(image), path)
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _deep(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Scale 16-bit values by 65535, so that images of one site stay comparable; refuse other deep types."""
    if values.min() < 0 or values.max() > 65535 or values.dtype.kind not in "iu":
        raise DataError(f"{path} holds values outside 0..65535; allowed are 8-bit and 16-bit images")
    return scale_range(values, 0, 65535)


def read_mask(entry: Entry, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return the entry's mask file as (H, W), foreground above 0, or None where it has none."""
    if entry.mask is None:
        return None
    try:
        with Image.open(entry.mask) as image:
            # A palette's indices are the labels; the colours they stand for are not.
            values = np.asarray(
                image if image.mode in ("1", "P", "L") or image.mode.startswith("I") else image.convert("L")
            )
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{entry.mask} cannot be read as a mask: {error}") from error
    if values.shape != shape[:2]:
        raise DataError(
            f"{entry.mask} is {_size(values.shape)} pixels but its image {entry.path.name} is {_size(shape)}"
        )
    return (values > 0).astype(np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
