from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.data.files import location, write_nifti
from umim.data.load import load_dataset
from umim.errors import DataError


def volume(slices: int = 4, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(500, 100, (16, 16, slices)).astype(np.float32)


def test_axial_slices_of_a_volume_share_one_patient(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a" / "1.nii.gz", volume(4))
    write_nifti(tmp_path / "b" / "2.nii", volume(3, seed=1))
    dataset = load_dataset(location(tmp_path, "nifti"), 16)
    assert dataset.patients.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.classes == ("a", "b")


def test_orientation_is_made_canonical_so_that_flipped_storage_gives_the_same_images(tmp_path: Path) -> None:
    values = volume()
    write_nifti(tmp_path / "straight" / "1.nii", values)
    write_nifti(tmp_path / "turned" / "1.nii", values[::-1, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0]))
    images = load_dataset(location(tmp_path, "nifti"), 16).images
    assert (images[:4] == images[4:]).all()


def test_empty_slices_are_dropped_unless_they_are_marked(tmp_path: Path) -> None:
    values = volume(5)
    values[:, :, (0, 3)] = 0
    mask = np.zeros((16, 16, 5), dtype=np.uint8)
    mask[2:4, 2:4, (1, 3)] = 1
    write_nifti(tmp_path / "v.nii", values)
    write_nifti(tmp_path / "m.nii", mask)
    (tmp_path / "l.csv").write_text("file,mask\nv.nii,m.nii\n")
    dataset = load_dataset(location(tmp_path, "nifti", "segmentation", "l.csv"), 16)
    assert dataset.targets is not None
    assert dataset.targets.reshape(4, -1).any(axis=1).tolist() == [True, False, True, False]


def test_intensities_are_scaled_by_percentiles_of_the_volume(tmp_path: Path) -> None:
    values = volume()
    values[0, 0, 0] = 1e6
    write_nifti(tmp_path / "v.nii", values)
    images = load_dataset(location(tmp_path, "nifti", "none"), 16).images
    assert images.std() > 40


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 4, 4, 2), dtype=np.float32), r"v.nii is float32 \(4, 4, 4, 2\); allowed are volumes"),
        (np.zeros((4, 4, 3), dtype=np.float32), "holds no image"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(tmp_path: Path, values: NDArray[Any], message: str) -> None:
    write_nifti(tmp_path / "v.nii", values)
    with pytest.raises(DataError, match=message):
        load_dataset(location(tmp_path, "nifti", "none"), 16)


def test_a_mask_of_another_shape_is_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii", volume(4))
    write_nifti(tmp_path / "m.nii", np.ones((16, 16, 3), dtype=np.uint8))
    (tmp_path / "l.csv").write_text("file,mask\nv.nii,m.nii\n")
    with pytest.raises(DataError, match=r"m.nii has the shape \(16, 16, 3\) but its volume v.nii has \(16, 16, 4\)"):
        load_dataset(location(tmp_path, "nifti", "segmentation", "l.csv"), 16)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_an_unreadable_volume_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no volume" * 100)
    with pytest.raises(DataError, match=f"{name} cannot be read as NIfTI"):
        load_dataset(location(tmp_path, "nifti", "none"), 16)


def test_a_truncated_volume_is_named(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "v.nii.gz", volume())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"v.nii.gz cannot be read as NIfTI"):
        load_dataset(location(tmp_path, "nifti", "none"), 16)
