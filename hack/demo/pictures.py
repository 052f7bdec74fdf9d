"""Turns volumes into pictures and DICOM files. Pure but for writing the file that is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

Array = npt.NDArray[np.generic]
GreyImage = npt.NDArray[np.uint8]
Plane = str
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Volume:
    """Voxels and their size."""

    voxels_xyz: Array
    """Intensities, axes left, posterior, superior (the order of NRRD and DICOM space)."""
    spacing_xyz: tuple[float, float, float]
    """Distance between voxel centres along each axis in mm."""


def window(pixels: Array, low: float, high: float) -> GreyImage:
    """Map intensities from [low, high] to [0, 255]; outside values are clipped."""
    scaled = (pixels.astype(np.float64) - low) / (high - low)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), dtype=np.uint8)


def stretch(pixels: Array) -> GreyImage:
    """Map the 1st to 99th percentile of an image to [0, 255]."""
    low, high = np.percentile(pixels.astype(np.float64), [1, 99])
    return window(pixels, float(low), float(max(high, low + 1)))


def enclosed_air(image: GreyImage, threshold: int) -> GreyImage:
    """Return a mask, 0 and 255 and at most 128 pixels wide, of what is darker and is not connected to the border."""
    small = Image.fromarray(image)
    small.thumbnail((128, 128), Image.Resampling.BILINEAR)
    air = Image.new("L", (small.width + 2, small.height + 2), 255)  # a frame that joins all air at the border
    air.paste(small.point(lambda value: 255 if value < threshold else 0), (1, 1))
    ImageDraw.floodfill(air, (0, 0), 0)
    return np.asarray(air.crop((1, 1, small.width + 1, small.height + 1)), dtype=np.uint8)


def write_png(image: GreyImage, path: Path, size: int = 128) -> None:
    """Write a grey image as a square PNG of ``size`` pixels, padded with black to keep its proportions."""
    picture = Image.fromarray(image)
    picture.thumbnail((size, size), Image.Resampling.BILINEAR)
    if max(picture.size) < size:
        factor = size / max(picture.size)
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    square = Image.new("L", (size, size))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    square.save(path)


def sections(volume: Volume, plane: Plane, positions: Sequence[int]) -> Iterator[tuple[int, Array, float]]:
    """Cut a volume along a plane: yields position, rows x columns with square pixels, and their size in mm.

    Coronal and sagittal sections of thick slices are resampled linearly along the body's axis, as a viewer's
    multiplanar reconstruction does. The head is up.
    """
    x, y, z = volume.spacing_xyz
    for position in positions:
        if plane == "axial":
            yield position, volume.voxels_xyz[:, :, position].T, x
        elif plane == "coronal":
            yield position, _upright(volume.voxels_xyz[:, position, :], z / x), x
        else:
            yield position, _upright(volume.voxels_xyz[position, :, :], z / y), y


def _upright(section_hz: Array, stretch_z: float) -> Array:
    rows = np.ascontiguousarray(section_hz.T[::-1]).astype(np.float32)
    picture = Image.fromarray(rows)
    height = max(1, round(rows.shape[0] * stretch_z))
    resized = picture.resize((rows.shape[1], height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def write_dicom(pixels: Array, path: Path, *, patient: str, plane: Plane, position: int, spacing_mm: float) -> None:
    """Write a section as an uncompressed MR image with identifiers that follow from its content's names."""
    uid = generate_uid(entropy_srcs=[patient, plane, str(position)])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, uid
    data.StudyInstanceUID = generate_uid(entropy_srcs=[patient])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, plane])
    data.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    data.Modality, data.BodyPartExamined, data.SeriesDescription = "MR", "HEAD", plane.upper()
    data.PatientID = patient
    data.PatientName = ""
    data.InstanceNumber = position
    values = np.clip(np.rint(pixels.astype(np.float64)), 0, 32767).astype("<u2")
    data.Rows, data.Columns = values.shape
    data.PixelSpacing = [f"{spacing_mm:.5g}"] * 2
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 15, 14
    data.PixelData = values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
