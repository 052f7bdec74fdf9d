"""The labels that a probe gets."""

import numpy as np
import pytest

from umim.errors import DataError
from umim.evaluation.draws import draw, number_of_draws

CLASSES = ("a", "b")
TARGETS = np.asarray([0, 1, 1, 0, 1, 0, 0, 1, 1, 0])


def chosen(count: int | None = 3, number: int = 0, seed: int = 0, dataset: str = "d") -> list[int]:
    return list(map(int, draw(TARGETS, "classification", CLASSES, dataset, count, number, seed)))


def test_each_class_gives_as_many_images() -> None:
    assert (TARGETS[chosen()] == 0).sum() == 3
    assert len(chosen()) == 6
    assert chosen() == sorted(set(chosen()))


def test_a_draw_depends_on_data_set_number_of_labels_draw_and_seed_alone() -> None:
    assert chosen() == chosen()
    others = [chosen(number=1), chosen(seed=1), chosen(dataset="e")]
    assert all(other != chosen() for other in others)


def test_all_labels_are_all_images() -> None:
    assert chosen(None) == list(range(10))


def test_a_class_with_fewer_labels_is_named() -> None:
    targets = np.asarray([0, 0, 0, 1])
    with pytest.raises(DataError, match=r"d: images of class b: there are 1 in the training part, fewer than the 2"):
        draw(targets, "classification", CLASSES, "d", 2, 0, 0)


def test_masks_are_drawn_among_those_with_foreground() -> None:
    masks = np.zeros((6, 4, 4), dtype=np.uint8)
    masks[[1, 3, 4], 0, 0] = 1
    assert draw(masks, "segmentation", ("foreground",), "d", 3, 0, 0).tolist() == [1, 3, 4]
    with pytest.raises(DataError, match=r"images with foreground: there are 3 .* the 4"):
        draw(masks, "segmentation", ("foreground",), "d", 4, 0, 0)


def test_each_label_of_several_has_positives_enough_and_there_are_images_without_any() -> None:
    targets = np.asarray([[1, 0], [1, 1], [0, 1], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.uint8)
    for number in range(5):
        found = targets[draw(targets, "multilabel", CLASSES, "d", 2, number, 0)]
        assert (found.sum(axis=0) >= 2).all()
        assert (~found.any(axis=1)).sum() == 2
    with pytest.raises(DataError, match="images of label a"):
        draw(targets, "multilabel", CLASSES, "d", 4, 0, 0)


def test_few_labels_are_drawn_five_times_and_all_once() -> None:
    assert number_of_draws(10, None) == 5
    assert number_of_draws(None, None) == 1
    assert number_of_draws(10, 2) == 2
    with pytest.raises(ValueError, match="draws is 0"):
        number_of_draws(10, 0)
    with pytest.raises(ValueError, match="labels_per_class is 0"):
        chosen(0)
