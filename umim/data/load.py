"""The entry to all formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from umim.api.hospital import DataFormat
from umim.api.jobs import DatasetLocation
from umim.data.dataset import ImageDataset, Report, Sample, collect
from umim.data.dicom import read_dicom
from umim.data.imagefolder import read_imagefolder
from umim.data.nifti import read_nifti
from umim.data.npz import read_npz

READERS: Mapping[DataFormat, Callable[[DatasetLocation, Report], Iterator[Sample]]] = {
    "imagefolder": read_imagefolder,
    "npz": read_npz,
    "dicom": read_dicom,
    "nifti": read_nifti,
}


def load_dataset(location: DatasetLocation, image_size: int, report: Report | None = None) -> ImageDataset:
    """Read a data set into memory: 8-bit, squeezed to ``image_size`` squared.

    ``report`` is told after each file how many are read. Raises DataError naming the file, row or array that
    cannot be used, and what is allowed.
    """
    samples = READERS[location.format](location, report or (lambda _done, _total: None))
    return collect(samples, location.task, image_size, location.path)
