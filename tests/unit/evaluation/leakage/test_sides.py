from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.evaluation.leakage.parts import blobs
from umim.errors import DataError
from umim.evaluation.leakage.sides import at_most, draw_sides, twin_of


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_twins_share_no_patient_and_hold_every_image_together(seed: int) -> None:
    dataset = blobs(80)
    sides = draw_sides(dataset, 6, seed)
    for model in range(6):
        own, other = sides[model], sides[twin_of(model)]
        assert (own ^ other).all()
        assert not np.isin(dataset.patients[own], dataset.patients[other]).any()
        assert abs(int(own.sum()) - 40) <= 8


def test_pairs_are_different_halves() -> None:
    sides = draw_sides(blobs(80), 8, 0)
    assert len({half.tobytes() for half in sides}) == 8


def test_a_split_that_the_source_fixes_is_not_kept() -> None:
    fixed = replace(blobs(80), validation=np.arange(80) < 2)
    assert draw_sides(fixed, 4, 0)[0].sum() < 60


def test_a_class_with_one_patient_is_named() -> None:
    dataset = blobs(40)
    assert dataset.targets is not None
    targets = np.where(np.arange(40) < 2, 3, np.arange(40) % 3)
    with pytest.raises(DataError, match="class '3' is missing in a half of the patients"):
        draw_sides(replace(dataset, targets=targets), 4, 0)


def test_at_most_keeps_whole_patients_and_their_labels() -> None:
    dataset = blobs(80)
    small = at_most(dataset, 31, 0)
    assert len(small) == 30
    assert small.patient_count == 15
    assert small.targets is not None
    assert dataset.targets is not None
    for index, patient in enumerate(small.patients):
        own = np.flatnonzero(dataset.patients == patient)
        matches = [number for number in own if (dataset.images[number] == small.images[index]).all()]
        assert dataset.targets[matches].tolist() == [small.targets[index]]


def test_a_data_set_that_fits_stays_as_it_is() -> None:
    dataset = blobs(80)
    assert at_most(dataset, 80, 0) is dataset


def test_a_limit_below_every_patient_is_refused() -> None:
    with pytest.raises(DataError, match="every patient has more than 1 images"):
        at_most(blobs(80), 1, 0)
