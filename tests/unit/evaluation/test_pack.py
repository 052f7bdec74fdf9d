"""What an archive must hold, and what is said when it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.evaluation.parts import SIZE, classification, multilabel, segmentation, without, write
from umim.artifacts.files import sha256_of
from umim.errors import DataError
from umim.evaluation.pack import Pack, datasets, load_pack


def test_labels_become_numbers_in_ascending_order_of_their_values(pack: Pack) -> None:
    assert pack.task == "classification"
    assert pack.classes == ("3", "5")
    assert pack.train.targets.tolist() == [0, 1] * 20
    assert pack.name == "stripes"


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, **classification())
    assert load_pack(path).digest == sha256_of(path)


def test_the_targets_say_the_task(tmp_path: Path) -> None:
    assert load_pack(write(tmp_path, "a", **multilabel())).task == "multilabel"
    assert load_pack(write(tmp_path, "b", **segmentation())).task == "segmentation"
    column = classification()
    column |= {name: column[name][:, None] for name in ("train_labels", "test_labels")}  # as MedMNIST has them
    assert load_pack(write(tmp_path, "c", **column)).task == "classification"


def test_images_of_another_size_are_resized_with_their_masks(tmp_path: Path) -> None:
    pack = load_pack(write(tmp_path, **segmentation()))
    train, test = datasets(pack, 16, "test")
    assert train.images.shape == (16, 1, 16, 16)
    assert test.targets is not None
    assert test.targets.shape == (8, 16, 16)
    assert set(np.unique(test.targets)) == {0, 1}


def test_colour_images_have_three_channels(tmp_path: Path) -> None:
    arrays = classification()
    arrays |= {name: np.repeat(arrays[name][..., None], 3, axis=3) for name in ("train_images", "test_images")}
    assert datasets(load_pack(write(tmp_path, **arrays)), SIZE, "test")[0].images.shape == (40, 3, SIZE, SIZE)


def test_the_validation_part_is_a_quarter_of_the_training_groups_and_leaves_the_test_part_alone(pack: Pack) -> None:
    train, held_out = datasets(pack, SIZE, "validation")
    assert len(np.unique(held_out.patients)) == 5  # of 20
    assert np.intersect1d(train.patients, held_out.patients).size == 0
    assert np.union1d(train.patients, held_out.patients).tolist() == np.unique(pack.train.groups).tolist()
    assert np.intersect1d(held_out.patients, pack.test.groups).size == 0


def test_the_validation_part_is_the_same_each_time(pack: Pack) -> None:
    assert (datasets(pack, SIZE, "validation")[1].images == datasets(pack, SIZE, "validation")[1].images).all()


def test_a_group_in_both_parts_is_refused(tmp_path: Path) -> None:
    arrays = classification()
    arrays["test_groups"][:4] = 7
    with pytest.raises(DataError, match=r"stripes\.npz: group 7 occurs in the training and in the test part"):
        load_pack(write(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_images": None}, r"stripes\.npz has no array test_images; it has: .*train_images"),
        ({"test_labels": None}, r"stripes\.npz has no array test_labels"),
        ({"train_labels": None}, r"stripes\.npz has neither train_labels nor train_masks"),
        ({"train_masks": np.zeros((40, SIZE, SIZE), np.uint8)}, r"both train_labels and train_masks"),
        ({"train_images": np.zeros((40, SIZE, SIZE))}, r"train_images is float64 .*allowed is uint8"),
        ({"train_images": np.zeros((40, SIZE, SIZE, 2), np.uint8)}, r"train_images is uint8 \(40, 32, 32, 2\)"),
        ({"test_images": np.zeros((0, SIZE, SIZE), np.uint8)}, r"test_images holds no image"),
        ({"test_labels": np.zeros(19, np.int64)}, r"test_labels is int64 \(19,\); .* the 20 images"),
        ({"test_labels": np.zeros((20, 2), np.int64)}, r"test_labels has the shape \(20, 2\); allowed is \(20,\)"),
        ({"train_labels": np.full(40, 1.5)}, r"train_labels is float64"),
        ({"train_labels": np.arange(40) - 1}, r"train_labels holds -1; allowed are class numbers from 0"),
        ({"test_labels": np.full(20, 3)}, r"test_labels: no image is of class 5"),
        ({"train_labels": np.full(40, 5)}, r"train_labels: no image is of class 3"),
        ({"train_labels": np.full(40, 5), "test_labels": np.full(20, 5)}, r"all labels are 5; allowed are two"),
        ({"test_groups": np.zeros((20, 2), np.int64)}, r"test_groups has the shape \(20, 2\)"),
    ],
)
def test_bad_archives_are_refused_naming_the_array(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: value for name, value in (classification() | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        load_pack(write(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": np.zeros((20, 3), np.uint8)}, r"test_labels has the shape \(20, 3\); allowed is \(20, 2\)"),
        ({"test_labels": np.full((20, 2), 2)}, r"test_labels holds 2 to 2; several labels an image allow 0 and 1"),
        ({"test_labels": np.eye(2, dtype=np.int64)[[0] * 20]}, r"test_labels: no image is of class 1"),
        ({"test_labels": np.asarray([[1, 0], [1, 1]] * 10)}, r"test_labels: all images are of class 0"),
    ],
)
def test_bad_labels_of_several_an_image_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_pack(write(tmp_path, **(multilabel() | change)))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((8, SIZE, SIZE), np.uint8), r"test_masks: all pixels are background"),
        (np.ones((8, SIZE, SIZE), np.uint8), r"test_masks: all pixels are foreground"),
        (
            np.zeros((8, SIZE, 8), np.uint8),
            r"test_masks is uint8 \(8, 32, 8\); allowed are whole numbers \(8, 32, 32\)",
        ),
        (np.full((8, SIZE, SIZE), 0.5), r"test_masks is float64"),
    ],
)
def test_bad_masks_are_refused(tmp_path: Path, masks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_pack(write(tmp_path, **(segmentation() | {"test_masks": masks})))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"a\.npz cannot be read as an npz archive"):
        load_pack(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"b\.npz does not exist"):
        load_pack(tmp_path / "b.npz")


def test_objects_in_an_archive_are_not_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path, **(classification() | {"train_labels": np.asarray([{}] * 40, dtype=object)}))
    with pytest.raises(DataError, match="train_labels is object; allowed are numbers and texts"):
        load_pack(path)


def test_a_class_that_the_validation_part_cannot_get_is_named(tmp_path: Path) -> None:
    arrays = classification()
    arrays["train_labels"][:] = 3
    arrays["train_labels"][:2] = 5  # one group alone has it, and it stays in training
    with pytest.raises(DataError, match=r"the validation part: no image is of class 5"):
        datasets(load_pack(write(tmp_path, **arrays)), SIZE, "validation")


def test_without_groups_each_image_is_its_own(tmp_path: Path) -> None:
    pack = load_pack(write(tmp_path, **without(classification(), "train_groups", "test_groups")))
    assert len(np.unique(np.concatenate([pack.train.groups, pack.test.groups]))) == 60
