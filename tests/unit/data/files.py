"""Small real files of every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from umim.api.hospital import DataFormat, Task
from umim.api.jobs import DatasetLocation


def location(
    path: Path, format: DataFormat, task: Task = "classification", labels_file: str | None = None
) -> DatasetLocation:
    return DatasetLocation(path=str(path), format=format, task=task, labels_file=labels_file)


def pixels(seed: int, shape: tuple[int, ...] = (20, 24)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_png(path: Path, values: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write_dicom(
    path: Path,
    values: NDArray[Any],
    *,
    patient: str = "P1",
    photometric: str = "MONOCHROME2",
    window: tuple[float, float] | None = None,
    rescale: tuple[float, float] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.PatientID = patient
    colour = photometric == "RGB"
    rows, columns = values.shape[-3:-1] if colour else values.shape[-2:]
    header.Rows, header.Columns = rows, columns
    header.SamplesPerPixel, header.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        header.PlanarConfiguration = 0
    if values.ndim == (4 if colour else 3):
        header.NumberOfFrames = len(values)
    header.BitsAllocated = header.BitsStored = values.dtype.itemsize * 8
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(values.dtype.kind == "i")
    if window is not None:
        header.WindowCenter, header.WindowWidth = window
    if rescale is not None:
        header.RescaleSlope, header.RescaleIntercept = rescale
    header.PixelData = values.tobytes()
    header.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path
