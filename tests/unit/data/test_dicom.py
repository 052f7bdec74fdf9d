from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.data.files import location, pixels, write_dicom, write_png
from umim.data.load import load_dataset
from umim.errors import DataError

RAMP = np.arange(256, dtype=np.int16).reshape(16, 16)


def one(root: Path) -> NDArray[Any]:
    return load_dataset(location(root, "dicom", "none"), 16).images[0, 0]


def test_the_window_is_applied_after_the_rescale(tmp_path: Path) -> None:
    # Hounsfield = 2 * stored - 100; the window [0, 100] is stored 50..100.
    write_dicom(tmp_path / "a.dcm", RAMP, rescale=(2, -100), window=(50.5, 101))
    image = one(tmp_path).reshape(-1)
    assert image[:51].max() == 0
    assert image[75] == 128
    assert image[100:].min() == 255


def test_without_window_percentiles_scale(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP)
    image = one(tmp_path).reshape(-1)
    assert (image[0], image[-1]) == (0, 255)
    assert abs(int(image[128]) - 128) <= 1


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP)
    write_dicom(tmp_path / "b.dcm", RAMP, photometric="MONOCHROME1")
    images = load_dataset(location(tmp_path, "dicom", "none"), 16).images
    assert (images[0] == 255 - images[1]).all()


def test_colour_is_kept(tmp_path: Path) -> None:
    values = pixels(0, (16, 16, 3))
    write_dicom(tmp_path / "a.dcm", values, photometric="RGB")
    images = load_dataset(location(tmp_path, "dicom", "none"), 16).images
    assert (images[0].transpose(1, 2, 0) == values).all()


def test_each_frame_is_an_image(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP + 1, RAMP + 2]))
    dataset = load_dataset(location(tmp_path, "dicom", "none"), 16)
    assert (len(dataset), dataset.patient_count) == (3, 1)


def test_patient_id_groups_and_is_not_kept(tmp_path: Path) -> None:
    for index, patient in enumerate(["Doe^Jane", "Doe^Jane", "Roe"]):
        write_dicom(tmp_path / "ct" / f"{index}.dcm", RAMP, patient=patient)
    write_dicom(tmp_path / "mr" / "0.dcm", RAMP, patient="Roe")
    dataset = load_dataset(location(tmp_path, "dicom"), 16)
    assert dataset.patients.tolist() == [0, 0, 1, 1]
    assert dataset.classes == ("ct", "mr")
    assert "Doe" not in repr(dataset)


def test_a_csv_row_may_name_a_series_folder_and_the_patient(tmp_path: Path) -> None:
    for index in range(2):
        write_dicom(tmp_path / "s1" / f"{index}", RAMP)
        write_dicom(tmp_path / "s2" / f"{index}", RAMP)
    (tmp_path / "l.csv").write_text("file,label,patient\ns1,head,A\ns2,chest,B\n")
    dataset = load_dataset(location(tmp_path, "dicom", labels_file="l.csv"), 16)
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [1, 1, 0, 0]
    assert dataset.patients.tolist() == [0, 0, 1, 1]


def test_masks_are_image_files_of_single_frames(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP)
    write_dicom(tmp_path / "multi.dcm", np.stack([RAMP, RAMP]))
    write_png(tmp_path / "m.png", (RAMP > 128).astype(np.uint8))
    (tmp_path / "l.csv").write_text("file,mask\na.dcm,m.png\n")
    dataset = load_dataset(location(tmp_path, "dicom", "segmentation", "l.csv"), 16)
    assert dataset.targets is not None
    assert (dataset.targets[0] == (RAMP > 128)).all()
    (tmp_path / "l.csv").write_text("file,mask\nmulti.dcm,m.png\n")
    with pytest.raises(DataError, match=r"multi.dcm has 2 frames; a mask .* single frame"):
        load_dataset(location(tmp_path, "dicom", "segmentation", "l.csv"), 16)


def test_objects_without_pixels_and_other_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP)
    report = write_dicom(tmp_path / "report.dcm", RAMP)
    import pydicom

    header = pydicom.dcmread(report)
    del header.PixelData
    header.save_as(report)
    (tmp_path / "README").write_text("notes")
    assert len(load_dataset(location(tmp_path, "dicom", "none"), 16)) == 1
    assert "left out 1 of 2 DICOM files" in caplog.text


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").write_text("not DICOM")
    with pytest.raises(DataError, match=r"bad.dcm cannot be read as DICOM"):
        load_dataset(location(tmp_path, "dicom", "none"), 16)


def test_truncated_pixels_are_named_with_the_transfer_syntax(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a.dcm.*cannot be"):
        load_dataset(location(tmp_path, "dicom", "none"), 16)
