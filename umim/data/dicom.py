"""DICOM files in folders. Of the header only what pixels need is read, and the PatientID as a group key."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_rescale
from pydicom.pixels.utils import pixel_array

from umim.api.jobs import DatasetLocation
from umim.data.dataset import Report, Sample
from umim.data.entries import Entry, find_entries
from umim.data.imagefolder import read_mask
from umim.data.pixels import scale_percentiles, scale_range
from umim.errors import DataError

LOG = logging.getLogger(__name__)
SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_PREAMBLE = 128


def read_dicom(location: DatasetLocation, report: Report) -> Iterator[Sample]:
    """Yield the images of DICOM files; each frame of a multi-frame file is one image.

    The patient is the CSV's patient column, else PatientID, else StudyInstanceUID, else the file. Objects
    without pixels (DICOMDIR, reports) are left out and counted in the log. Raises DataError naming the file.
    """
    root = Path(location.path)
    entries = find_entries(root, location.labels_file, location.task, is_dicom)
    skipped = 0
    for number, entry in enumerate(entries, start=1):
        header = _read(entry.path)
        if "PixelData" in header:
            yield from _samples(root, entry, header)
        else:
            skipped += 1
        report(number, len(entries))
    if skipped:
        LOG.warning("left out %d of %d DICOM files: they hold no pixels", skipped, len(entries))


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix, or by the mark after the preamble (PS3.10, 7.1)."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as stream:
        stream.seek(_PREAMBLE)
        return stream.read(4) == b"DICM"


def _read(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path)
    except (OSError, InvalidDicomError, ValueError, KeyError, EOFError, AttributeError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as DICOM: {error}") from error


def _samples(root: Path, entry: Entry, header: pydicom.Dataset) -> Iterator[Sample]:
    frames = _frames(entry.path, header)
    if entry.mask is not None and len(frames) > 1:
        raise DataError(f"{entry.path} has {len(frames)} frames; a mask in the CSV is allowed for a single frame only")
    own = header.get("PatientID") or header.get("StudyInstanceUID") or f"file {entry.path.relative_to(root)}"
    for frame in frames:
        yield Sample(frame, entry.patient or str(own), entry.label, read_mask(entry, frame.shape))


def _frames(path: Path, header: pydicom.Dataset) -> list[NDArray[np.uint8]]:
    """Return the frames as (H, W) grey or (H, W, 3) colour images."""
    try:
        values = np.asarray(pixel_array(header))
        if header.get("SamplesPerPixel", 1) == 1:
            values = apply_rescale(values, header)
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, KeyError, TypeError, OSError) as error:
        syntax = getattr(header.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise DataError(f"{path}: the pixels (transfer syntax {syntax}) cannot be decoded: {error}") from error
    colour = header.get("SamplesPerPixel", 1) == 3
    stacked = values if values.ndim == (4 if colour else 3) else values[None]
    if colour:
        return [scale_range(frame, 0, 2 ** int(header.BitsStored) - 1) for frame in stacked]
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    grey = (_window(frame, header) for frame in stacked)
    return [255 - frame if inverted else frame for frame in grey]


def _window(values: NDArray[Any], header: pydicom.Dataset) -> NDArray[np.uint8]:
    """Scale by the header's first window (PS3.3 C.11.2.1.2, linear), or by percentiles where there is none."""
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is None or width is None or width <= 1:
        return scale_percentiles(values)
    return scale_range(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def _first(value: Any) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)
