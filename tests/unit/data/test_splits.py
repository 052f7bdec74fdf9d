import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.data.dataset import ImageDataset
from umim.data.splits import split_by_patient
from umim.errors import DataError


def dataset(patients: list[int], labels: list[int]) -> ImageDataset:
    return ImageDataset(
        images=np.zeros((len(patients), 1, 2, 2), dtype=np.uint8),
        task="classification",
        targets=np.asarray(labels, dtype=np.int64),
        classes=tuple(str(index) for index in range(4)),
        patients=np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64),
    )


two_patients_or_more = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 3)), min_size=2, max_size=60).filter(
    lambda rows: len({patient for patient, _ in rows}) > 1
)


@given(two_patients_or_more, st.floats(0.01, 0.5), st.integers(0, 2**31 - 1))
def test_no_patient_is_on_both_sides_and_both_sides_have_one(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    data = dataset([patient for patient, _ in rows], [label for _, label in rows])
    split = split_by_patient(data, fraction, seed)
    assert sorted([*split.train, *split.validation]) == list(range(len(rows)))
    assert len(split.train)
    assert len(split.validation)
    assert not set(data.patients[split.train]) & set(data.patients[split.validation])


@given(two_patients_or_more, st.integers(0, 1000))
def test_the_same_seed_gives_the_same_split(rows: list[tuple[int, int]], seed: int) -> None:
    data = dataset([patient for patient, _ in rows], [label for _, label in rows])
    first, second = split_by_patient(data, 0.3, seed), split_by_patient(data, 0.3, seed)
    assert first.train.tolist() == second.train.tolist()


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=60).filter(lambda labels: len(set(labels)) < len(labels)),
    st.floats(0.01, 0.5),
    st.integers(0, 1000),
)
def test_every_class_stays_in_training_when_patients_have_one_image_each(
    labels: list[int], fraction: float, seed: int
) -> None:
    data = dataset(list(range(len(labels))), labels)
    split = split_by_patient(data, fraction, seed)
    assert data.targets is not None
    assert set(data.targets[split.train]) == set(labels)


def test_the_share_is_of_patients_and_even_over_classes() -> None:
    data = dataset(list(range(100)), [0] * 80 + [1] * 20)
    split = split_by_patient(data, 0.2, seed=1)
    assert data.targets is not None
    assert np.bincount(data.targets[split.validation]).tolist() == [16, 4]


def test_another_seed_gives_another_split() -> None:
    data = dataset(list(range(50)), [0, 1] * 25)
    assert split_by_patient(data, 0.2, 0).validation.tolist() != split_by_patient(data, 0.2, 1).validation.tolist()


def test_one_patient_alone_is_refused() -> None:
    with pytest.raises(DataError, match="1 patient is too few: one is needed for training and another one"):
        split_by_patient(dataset([5, 5, 5], [0, 1, 0]), 0.2, 0)


def test_fewer_patients_than_the_privacy_floor_are_refused() -> None:
    data = dataset(list(range(10)), [0, 1] * 5)
    assert len(split_by_patient(data, 0.2, 0, min_patients=8).train) == 8
    with pytest.raises(DataError, match=r"8 patients .* fewer than spec.privacy.minPatients allows \(9\)"):
        split_by_patient(data, 0.2, 0, min_patients=9)


def test_patients_with_and_without_foreground_are_on_both_sides() -> None:
    masks = np.zeros((20, 4, 4), dtype=np.uint8)
    masks[:10] = 1
    data = ImageDataset(np.zeros((20, 1, 4, 4), np.uint8), "segmentation", masks, ("foreground",), np.arange(20))
    split = split_by_patient(data, 0.2, 0)
    assert masks[split.validation].reshape(4, -1).any(axis=1).sum() == 2


def test_multilabel_patients_are_drawn_by_their_rarest_label() -> None:
    targets = np.zeros((20, 2), dtype=np.uint8)
    targets[:, 0] = 1
    targets[:4, 1] = 1
    data = ImageDataset(np.zeros((20, 1, 4, 4), np.uint8), "multilabel", targets, ("common", "rare"), np.arange(20))
    split = split_by_patient(data, 0.25, 0)
    assert targets[split.validation][:, 1].sum() == 1
