from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.files import location, pixels, write_png
from umim.data.load import load_dataset
from umim.errors import DataError


def two_classes(root: Path) -> Path:
    for index in range(3):
        write_png(root / "benign" / f"{index}.png", pixels(index))
        write_png(root / "malignant" / f"{index}.png", pixels(index + 10))
    return root


def table(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_text(text)
    return root


def test_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    dataset = load_dataset(location(two_classes(tmp_path), "imagefolder"), 16)
    assert dataset.classes == ("benign", "malignant")
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.images.shape == (6, 1, 16, 16)
    assert dataset.images.dtype == np.uint8
    assert dataset.patient_count == 6


def test_an_image_of_the_right_size_is_not_changed(tmp_path: Path) -> None:
    values = pixels(1, (16, 16))
    write_png(tmp_path / "a" / "0.png", values)
    write_png(tmp_path / "b" / "0.png", values)
    assert (load_dataset(location(tmp_path, "imagefolder"), 16).images[0, 0] == values).all()


def test_one_coloured_image_makes_all_three_channels(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    write_png(root / "benign" / "9.png", pixels(1, (16, 16, 3)))
    dataset = load_dataset(location(root, "imagefolder"), 16)
    assert dataset.images.shape == (7, 3, 16, 16)
    grey = dataset.images[0]
    assert (grey[0] == grey[1]).all()
    assert (grey[0] == grey[2]).all()


def test_sixteen_bit_grey_is_scaled_by_the_type_range(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_png(tmp_path / name / "0.png", np.full((16, 16), 32768, dtype=np.uint16))
    assert (load_dataset(location(tmp_path, "imagefolder"), 16).images == 128).all()


def test_csv_gives_labels_and_patients(tmp_path: Path) -> None:
    two_classes(tmp_path)
    table(tmp_path, "file,label,patient\nbenign/0.png,x,P1\nbenign/1.png,y,P1\nmalignant/0.png,y,P2\n")
    dataset = load_dataset(location(tmp_path, "imagefolder", labels_file="labels.csv"), 16)
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [0, 1, 1]
    assert dataset.patients.tolist() == [0, 0, 1]


def test_multilabel_joins_labels_by_bars_and_allows_none(tmp_path: Path) -> None:
    two_classes(tmp_path)
    table(tmp_path, "file,label\nbenign/0.png,edema|mass\nbenign/1.png,\nbenign/2.png,mass\n")
    dataset = load_dataset(location(tmp_path, "imagefolder", "multilabel", "labels.csv"), 16)
    assert dataset.classes == ("edema", "mass")
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_masks_are_resized_by_nearest_neighbour_to_zero_and_one(tmp_path: Path) -> None:
    write_png(tmp_path / "i.png", pixels(0, (8, 8)))
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4] = 255
    write_png(tmp_path / "m.png", mask)
    table(tmp_path, "file,mask,patient\ni.png,m.png,a\n")
    dataset = load_dataset(location(tmp_path, "imagefolder", "segmentation", "labels.csv"), 16)
    assert dataset.targets is not None
    assert (dataset.targets[0, :8] == 1).all()
    assert (dataset.targets[0, 8:] == 0).all()


def test_task_none_reads_all_images_without_labels(tmp_path: Path) -> None:
    dataset = load_dataset(location(two_classes(tmp_path), "imagefolder", "none"), 16)
    assert (len(dataset), dataset.targets, dataset.classes) == (6, None, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n../outside.png,x\n", r"labels.csv row 2: file '../outside.png' leaves the data folder"),
        (
            "file,label\nbenign/0.png,x\n/etc/hostname,y\n",
            "labels.csv row 3: file '/etc/hostname' leaves the data folder",
        ),
        ("file,label\nlink.png,x\n", "labels.csv row 2: file 'link.png' leaves the data folder"),
        ("file,label\nbenign/7.png,x\n", "labels.csv row 2: file 'benign/7.png' does not exist"),
        ("file,label\nbenign/0.png,\n", "labels.csv row 2: the label is empty"),
        ("file,label\nbenign/0.png,a|b\n", "names several classes"),
        ("file,label\nbenign/0.png,x\nbenign/1.png,x\n", "all 2 images have the label 'x'; allowed are two classes"),
        ("file,label\nbenign/0.png\n", "labels.csv row 2 has not 2 fields"),
        ("file,label\nbenign/0.png,x,y\n", "labels.csv row 2 has not 2 fields"),
        ("file,label\n,x\n", "labels.csv row 2: file '' is empty"),
        ("file,class\nbenign/0.png,x\n", "labels.csv has no column 'label'.*it has: file, class"),
        (
            "file,label,age\nbenign/0.png,x,3\n",
            "column 'age' is unknown or doubled; allowed are file, label, mask, patient",
        ),
        ("file,label,label\nbenign/0.png,x,y\n", "column 'label' is unknown or doubled"),
        ("", "labels.csv has no column 'file'"),
        ("file,label\n", "holds no image"),
        ('file,label\n"benign/0.png,x\n', "labels.csv is not a CSV file"),
    ],
)
def test_a_bad_table_is_refused_naming_the_row(tmp_path: Path, text: str, message: str) -> None:
    root = two_classes(tmp_path / "root")
    outside = write_png(tmp_path / "outside.png", pixels(0))
    (root / "link.png").symlink_to(outside)
    table(root, text)
    with pytest.raises(DataError, match=message):
        load_dataset(location(root, "imagefolder", labels_file="labels.csv"), 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\ni.png,x\n", "no column 'mask', which task segmentation needs"),
        ("file,mask\ni.png,gone.png\n", "row 2: mask 'gone.png' is not a file"),
        ("file,mask\ni.png,../m.png\n", "row 2: mask '../m.png' leaves the data folder"),
        ("file,mask\ni.png,small.png\n", "small.png is 4x4 pixels but its image i.png is 8x8"),
        ("file,mask\ni.png,empty.png\n", "all 1 masks are empty"),
        ("file,mask\ni.png,text.png\n", "text.png cannot be read as a mask"),
    ],
)
def test_a_bad_mask_is_refused_naming_it(tmp_path: Path, text: str, message: str) -> None:
    write_png(tmp_path / "i.png", pixels(0, (8, 8)))
    write_png(tmp_path / "small.png", pixels(0, (4, 4)))
    write_png(tmp_path / "empty.png", np.zeros((8, 8), dtype=np.uint8))
    (tmp_path / "text.png").write_text("no image")
    table(tmp_path, text)
    with pytest.raises(DataError, match=message):
        load_dataset(location(tmp_path, "imagefolder", "segmentation", "labels.csv"), 16)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    (root / "benign" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(DataError, match=r"benign/bad.png cannot be read as an image"):
        load_dataset(location(root, "imagefolder"), 16)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    whole = (root / "benign" / "0.png").read_bytes()
    (root / "benign" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"benign/0.png cannot be read as an image"):
        load_dataset(location(root, "imagefolder"), 16)


def test_an_image_beyond_pillows_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = two_classes(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"0.png cannot be read as an image: .*480 pixels"):
        load_dataset(location(root, "imagefolder"), 16)


@pytest.mark.parametrize(
    ("make", "task", "message"),
    [
        (lambda _root: None, "classification", "is not a folder: set spec.data.path"),
        (lambda root: root.mkdir(), "classification", "has no folder: put each class into a folder"),
        (lambda root: (root / "one").mkdir(parents=True), "classification", "holds no image"),
        (two_classes, "multilabel", "needs spec.data.labelsFile, a CSV file with the columns file and label"),
        (two_classes, "segmentation", "needs spec.data.labelsFile, a CSV file with the columns file and mask"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, make, task, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        load_dataset(location(tmp_path / "data", "imagefolder", task), 16)


def test_a_missing_labels_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spec.data.labelsFile: .*gone.csv is not a file"):
        load_dataset(location(two_classes(tmp_path), "imagefolder", labels_file="gone.csv"), 16)


def test_reading_is_reported_file_by_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_dataset(location(two_classes(tmp_path), "imagefolder"), 16, lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]
