from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.files import location, pixels
from umim.api.hospital import Task
from umim.data.load import load_dataset
from umim.data.splits import split_by_patient
from umim.errors import DataError

GREY = pixels(0, (4, 16, 16))
LABELS = np.array([2, 0, 2, 10])


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_labels_are_ordered_as_numbers_and_classes_that_do_not_occur_are_left_out(tmp_path: Path) -> None:
    dataset = load_dataset(location(write(tmp_path, train_images=GREY, train_labels=LABELS), "npz"), 16)
    assert dataset.classes == ("0", "2", "10")
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [1, 0, 1, 2]
    assert (dataset.images[:, 0] == GREY).all()


def test_the_archive_may_be_named_by_its_folder(tmp_path: Path) -> None:
    write(tmp_path, train_images=GREY, train_labels=LABELS)
    assert len(load_dataset(location(tmp_path, "npz"), 16)) == 4


def test_groups_are_patients(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=GREY, train_labels=LABELS, train_groups=np.array([7, 7, 3, 9]))
    assert load_dataset(location(path, "npz"), 16).patient_count == 3


def test_medmnist_labels_in_a_column_and_colour_images_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=pixels(0, (4, 28, 28, 3)), train_labels=LABELS[:, None].astype(np.uint8))
    dataset = load_dataset(location(path, "npz"), 16)
    assert dataset.images.shape == (4, 3, 16, 16)
    assert dataset.classes == ("0", "2", "10")


def test_validation_images_of_the_archive_are_the_validation_part_and_test_images_are_not_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        train_images=GREY,
        train_labels=LABELS,
        val_images=GREY[:2],
        val_labels=LABELS[:2],
        test_images=np.array(["never read"]),
    )
    dataset = load_dataset(location(path, "npz"), 16)
    split = split_by_patient(dataset, 0.5, seed=0)
    assert split.train.tolist() == [0, 1, 2, 3]
    assert split.validation.tolist() == [4, 5]


def test_a_group_on_both_sides_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        train_images=GREY,
        train_labels=LABELS,
        train_groups=np.arange(4),
        val_images=GREY[:2],
        val_labels=LABELS[:2],
        val_groups=np.array([3, 4]),
    )
    with pytest.raises(DataError, match=r"occurs in train_\* and in val_\*"):
        split_by_patient(load_dataset(location(path, "npz"), 16), 0.5, seed=0)


def test_multilabel_columns_become_labels(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=GREY, train_labels=np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]))
    dataset = load_dataset(location(path, "npz", "multilabel"), 16)
    assert dataset.classes == ("0", "2")
    assert dataset.targets is not None
    assert dataset.targets.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]


def test_masks_are_read(tmp_path: Path) -> None:
    masks = (GREY > 128).astype(np.uint8) * 255
    dataset = load_dataset(location(write(tmp_path, train_images=GREY, train_masks=masks), "npz", "segmentation"), 16)
    assert dataset.targets is not None
    assert (dataset.targets == (GREY > 128)).all()


def test_an_unlabelled_pool_is_read_for_task_none(tmp_path: Path) -> None:
    dataset = load_dataset(location(write(tmp_path, images=GREY, modality=np.zeros(4)), "npz", "none"), 16)
    assert (len(dataset), dataset.targets) == (4, None)


@pytest.mark.parametrize(
    ("arrays", "task", "message"),
    [
        ({"images": GREY}, "classification", "data.npz has no array train_images; it has: images"),
        ({"train_images": GREY}, "classification", "has no array train_labels; it has: train_images"),
        ({"train_images": GREY}, "segmentation", "has no array train_masks"),
        ({"train_images": GREY.astype(float), "train_labels": LABELS}, "classification", "allowed is uint8"),
        ({"train_images": pixels(0, (4, 8, 8, 8)), "train_labels": LABELS}, "classification", "allowed is uint8"),
        ({"train_images": GREY, "train_labels": LABELS[:3]}, "classification", r"allowed are whole numbers \(4,\)"),
        ({"train_images": GREY, "train_labels": LABELS - 1}, "classification", "train_labels holds -1"),
        ({"train_images": GREY, "train_labels": np.ones((4, 3), int)}, "classification", "has 3 columns"),
        ({"train_images": GREY, "train_labels": np.ones(4, int)}, "classification", "all 4 images have the label '1'"),
        ({"train_images": GREY, "train_masks": GREY[:, :8]}, "segmentation", r"train_masks is uint8 \(4, 8, 16\)"),
        ({"train_images": GREY, "train_labels": LABELS, "train_groups": LABELS[:2]}, "classification", "train_groups"),
        (
            {"train_images": GREY, "train_labels": np.array([{}, {}, {}, {}])},
            "classification",
            "train_labels is object; allowed are numbers and texts",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, arrays: dict[str, Any], task: Task, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(location(write(tmp_path, **arrays), "npz", task), 16)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"data.npz cannot be read as an npz archive"):
        load_dataset(location(tmp_path / "data.npz", "npz"), 16)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=GREY, train_labels=LABELS)
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.npz cannot be read as an npz archive"):
        load_dataset(location(path, "npz"), 16)


def test_a_folder_with_two_archives_asks_for_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=1)
    np.savez(tmp_path / "b.npz", x=1)
    with pytest.raises(DataError, match=r"holds 2 npz files; set spec.data.path to one of them"):
        load_dataset(location(tmp_path, "npz"), 16)


def test_a_labels_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=GREY, train_labels=LABELS)
    with pytest.raises(DataError, match=r"spec.data.labelsFile 'l.csv': not allowed with format npz"):
        load_dataset(location(path, "npz", labels_file="l.csv"), 16)
