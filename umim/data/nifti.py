"""NIfTI volumes, cut into axial slices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from umim.api.jobs import DatasetLocation
from umim.data.dataset import Report, Sample
from umim.data.entries import Entry, find_entries
from umim.data.limits import MOST_FRAMES, MOST_INFLATION, MOST_LEADING_BYTES, UNREADABLE, check_limit, check_size
from umim.data.pixels import scale_percentiles
from umim.errors import DataError

HEADER_BYTES = 540
"""Size of the larger header, that of NIfTI-2."""
_UNREADABLE: tuple[type[Exception], ...] = (*UNREADABLE, ImageFileError, HeaderDataError, OrientationError)
BRIGHT = 13
"""A pixel above 5 % of the volume's range (13 of 255) counts as not empty."""
LEAST_BRIGHT_SHARE = 0.01
"""A slice with a smaller share of such pixels, and without mask, is empty and dropped."""


def read_nifti(location: DatasetLocation, report: Report) -> Iterator[Sample]:
    """Yield the axial slices of NIfTI volumes (.nii, .nii.gz), intensities scaled by the volume's percentiles.

    The volume is turned to the nearest RAS orientation; slices lie along its third axis, anterior up. The
    patient is the CSV's patient column, else the volume. Empty slices are dropped. Raises DataError naming the
    file that cannot be read, or whose mask has another shape.
    """
    root = Path(location.path)
    entries = find_entries(root, location.labels_file, location.task, is_nifti)
    masks = {entry.mask.resolve() for entry in entries if entry.mask is not None}
    entries = [entry for entry in entries if entry.path.resolve() not in masks]
    for number, entry in enumerate(entries, start=1):
        yield from _slices(root, entry)
        report(number, len(entries))


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a file is a NIfTI volume."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _slices(root: Path, entry: Entry) -> Iterator[Sample]:
    volume = scale_percentiles(_read(entry.path))
    mask = None if entry.mask is None else _read(entry.mask) > 0
    if mask is not None and mask.shape != volume.shape:
        raise DataError(f"{entry.mask} has the shape {mask.shape} but its volume {entry.path.name} has {volume.shape}")
    patient = entry.patient or f"volume {entry.path.relative_to(root)}"
    for index in range(volume.shape[2]):
        cut = np.ascontiguousarray(np.rot90(volume[:, :, index]))
        marked = None if mask is None else np.rot90(mask[:, :, index]).astype(np.uint8)
        empty = np.mean(cut > BRIGHT) < LEAST_BRIGHT_SHARE
        if not empty or (marked is not None and marked.any()):
            yield Sample(cut, patient, entry.label, marked)


def _read(path: Path) -> NDArray[Any]:
    """Return a volume as (X, Y, Z) in the nearest RAS orientation. Its header is checked before its voxels are read."""
    try:
        kind, header = _header(path)
        _check_claims(path, header)
        image = nibabel.as_closest_canonical(kind.from_filename(path))  # type: ignore[no-untyped-call]
        values = np.asarray(image.dataobj)
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as NIfTI: {error}") from error
    return values[..., 0] if values.ndim == 4 else values


def _header(path: Path) -> tuple[type[nibabel.Nifti1Image], nibabel.Nifti1Header]:
    """Return a volume's class and header. Other formats that nibabel would find by themselves are refused."""
    with nibabel.openers.ImageOpener(str(path)) as stream:
        raw = stream.read(HEADER_BYTES)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(raw):  # type: ignore[no-untyped-call]
            return kind, kind.header_class(raw[: kind.header_class.sizeof_hdr])  # type: ignore[no-untyped-call]
    raise ImageFileError("it has no header of NIfTI-1 or NIfTI-2")


def _check_claims(path: Path, header: nibabel.Nifti1Header) -> None:
    """Check type and size of what the header claims. Raises DataError."""
    shape = tuple(int(side) for side in header.get_data_shape())  # type: ignore[no-untyped-call]
    dtype = header.get_data_dtype()  # type: ignore[no-untyped-call]
    sides = shape[:3] if shape[3:] == (1,) else shape
    if len(sides) != 3 or dtype.kind not in "iufb" or min(sides) < 1:
        raise DataError(f"{path} is {dtype} {shape}; allowed are volumes (X, Y, Z) of numbers")
    *_, middle, largest = sorted(sides)
    check_size(str(path), middle, largest, math.prod(sides) // (middle * largest))
    check_limit(f"{path}: number of slices", largest, MOST_FRAMES)
    start = header.get_data_offset()  # type: ignore[no-untyped-call]
    check_limit(f"{path}: bytes before the voxels", start, MOST_LEADING_BYTES)
    most = path.stat().st_size * (MOST_INFLATION if path.name.lower().endswith(".gz") else 1)
    needed = start + math.prod(sides) * dtype.itemsize
    check_limit(f"{path}: bytes that its header says it has", needed, most)
