"""Image files (PNG, JPEG, TIFF, BMP, WebP) with folder names or a CSV as labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umim.api.jobs import DatasetLocation
from umim.data.dataset import Report, Sample
from umim.data.entries import Entry, find_entries
from umim.data.limits import UNREADABLE, check_size
from umim.data.pixels import scale_range
from umim.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""What Pillow may take a file for, whatever its name says: it reads dozens of formats, PostScript by a program."""


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
    with _opened(path, "an image") as image:
        if image.mode.startswith(("I", "F")):
            return _deep(np.asarray(image), path)
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """Open an image of allowed size. Raises DataError naming the file, also for what the block cannot decode."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(str(path), image.height, image.width)
            # A JPEG of a camera may hold a preview as a second image (MPO). Other files mean all of their images.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise ValueError("it holds several images; allowed is one a file")
            yield image
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as {what}: {error}") from error


def _deep(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Scale 16-bit values by 65535, so that images of one site stay comparable; refuse other deep types."""
    if values.min() < 0 or values.max() > 65535 or values.dtype.kind not in "iu":
        raise DataError(f"{path} holds values outside 0..65535; allowed are 8-bit and 16-bit images")
    return scale_range(values, 0, 65535)


def read_mask(entry: Entry, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return the entry's mask file as (H, W), foreground above 0, or None where it has none."""
    if entry.mask is None:
        return None
    with _opened(entry.mask, "a mask") as image:
        # A palette's indices are the labels; the colours they stand for are not.
        values = np.asarray(
            image if image.mode in ("1", "P", "L") or image.mode.startswith("I") else image.convert("L")
        )
    if values.shape != shape[:2]:
        raise DataError(
            f"{entry.mask} is {_size(values.shape)} pixels but its image {entry.path.name} is {_size(shape)}"
        )
    return (values > 0).astype(np.uint8)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
