"""DICOM files in folders. Of the header only what pixels need is read, and the PatientID as a group key."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_rescale
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from umim.api.jobs import DatasetLocation
from umim.data.dataset import Report, Sample
from umim.data.entries import Entry, find_entries
from umim.data.imagefolder import read_mask
from umim.data.limits import MOST_INFLATED_BYTES, UNREADABLE, check_limit, check_size
from umim.data.pixels import scale_percentiles, scale_range
from umim.errors import DataError

LOG = logging.getLogger(__name__)
SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
MARK = b"DICM"
"""What follows the preamble of a file (PS3.10, 7.1)."""
GROUP_LENGTH_BYTES = 12
"""Size of the element that says how long the rest of the file meta information is."""
PIECE_BYTES = 1 << 20
RLE_FRAME_BYTES = 1 << 10
"""More than the offset tables and the padding of a frame take (PS3.5, G)."""
TAGS: list[BaseTag | int] = [
    Tag(keyword)
    for keyword in (
        "PatientID",
        "StudyInstanceUID",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "WindowCenter",
        "WindowWidth",
        "RescaleIntercept",
        "RescaleSlope",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
        "PixelData",
    )
]
"""Elements that are kept. The others are passed over: the patient's data is not needed, and may be of any size."""
_PREAMBLE = 128
_UNREADABLE: tuple[type[Exception], ...] = (*UNREADABLE, InvalidDicomError)


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
        return stream.read(len(MARK)) == MARK


def _read(path: Path) -> pydicom.Dataset:
    try:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _read_deflated(path, meta)
        return pydicom.dcmread(path, specific_tags=TAGS)
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as DICOM: {error}") from error


def _read_deflated(path: Path, meta: FileMetaDataset) -> pydicom.Dataset:
    """Inflate what follows the file meta information (PS3.5, A.5) as far as allowed. pydicom knows no limit."""
    with path.open("rb") as stream:
        stream.seek(_PREAMBLE + len(MARK) + GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = bytearray()
        for piece in iter(lambda: inflater.unconsumed_tail or stream.read(PIECE_BYTES), b""):
            content += inflater.decompress(piece, PIECE_BYTES)
            check_limit(f"{path}: bytes that it inflates to", len(content), MOST_INFLATED_BYTES)
    if not inflater.eof:
        raise EOFError("its deflated content is cut off")
    content += inflater.flush()
    inner = read_dataset(BytesIO(content), is_implicit_VR=False, is_little_endian=True, specific_tags=TAGS)
    return pydicom.FileDataset(path, inner, file_meta=meta, is_implicit_VR=False, is_little_endian=True)


def _samples(root: Path, entry: Entry, header: pydicom.Dataset) -> Iterator[Sample]:
    frames, own = _decoded(entry.path, header)
    if entry.mask is not None and len(frames) > 1:
        raise DataError(f"{entry.path} has {len(frames)} frames; a mask in the CSV is allowed for a single frame only")
    patient = entry.patient or own or f"file {entry.path.relative_to(root)}"
    for frame in frames:
        yield Sample(frame, patient, entry.label, read_mask(entry, frame.shape))


def _decoded(path: Path, header: pydicom.Dataset) -> tuple[list[NDArray[np.uint8]], str]:
    """Return the frames, and the file's own key of the patient, empty where there is none. Raises DataError."""
    try:
        _check_claims(path, header)
        return _frames(header), str(header.get("PatientID") or header.get("StudyInstanceUID") or "")
    except UNREADABLE as error:
        syntax = getattr(header.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise DataError(f"{path}: the pixels (transfer syntax {syntax}) cannot be decoded: {error}") from error


def _check_claims(path: Path, header: pydicom.Dataset) -> None:
    """Check the size that the header claims, before anything is decoded into memory for it."""
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel", 1))
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if samples not in (1, 3):
        raise ValueError(f"SamplesPerPixel is {samples}; allowed are 1 and 3")
    check_size(str(path), rows, columns, frames, samples)
    # Else a run of two bytes (PS3.5, G.3.1) could stand for 128, whatever the header says.
    if header.file_meta.TransferSyntaxUID == RLELossless:
        decoded = rows * columns * samples * frames * int(header.get("BitsAllocated", 8)) // 8
        check_limit(f"{path}: bytes of its RLE frames", len(header.PixelData), 2 * decoded + RLE_FRAME_BYTES * frames)


def _frames(header: pydicom.Dataset) -> list[NDArray[np.uint8]]:
    """Return the frames as (H, W) grey or (H, W, 3) colour images."""
    values = np.asarray(pixel_array(header))
    if header.get("SamplesPerPixel", 1) == 1:
        values = apply_rescale(values, header)
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
