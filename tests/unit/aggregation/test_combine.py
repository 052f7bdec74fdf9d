"""Weighted sums of changes: pairwise, in any buffers, with nothing left over from the sum before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.aggregation.combine import Scratch, combined_change
from umim.aggregation.interface import Array


def combined(values: list[Array], parent: Array, coefficients: list[float], scratch: Scratch | None = None) -> Array:
    out = np.full_like(parent, np.nan)
    combined_change(values, parent, coefficients, out, scratch or Scratch())
    return out


@given(st.integers(0, 40), st.integers(0, 30), st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
def test_it_is_the_weighted_sum_of_the_changes(sites: int, size: int, seed: int, kind: type[np.floating[Any]]) -> None:
    draw = np.random.default_rng(seed)
    parent: Array = draw.normal(size=size).astype(kind)
    values: list[Array] = [draw.normal(size=size).astype(kind) for _ in range(sites)]
    coefficients = [float(one) for one in draw.uniform(-1, 1, sites)]
    expected = sum(
        (one * (value.astype(float) - parent) for one, value in zip(coefficients, values, strict=True)),
        np.zeros(size),
    )
    found = combined(values, parent, coefficients)
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected, rtol=0, atol=60 * float(np.finfo(kind).eps))


def test_errors_grow_with_the_logarithm_of_the_number_of_sites() -> None:
    draw = np.random.default_rng(0)
    values: list[Array] = [draw.uniform(0.5, 1, 4096).astype(np.float32) for _ in range(1024)]
    exact = np.sum([value.astype(float) for value in values], axis=0)
    found = combined(values, np.zeros(4096, np.float32), [1.0] * 1024)
    # Difference, coefficient, product, 10 levels of sums. One after the other it would be a thousand.
    assert np.abs(found / exact - 1).max() <= 13 * 2.0**-24


def test_without_sites_nothing_changes() -> None:
    assert combined([], np.ones(3, np.float32), []).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arrays_are_used_again_whatever_their_length_and_type(kind: type[np.floating[Any]]) -> None:
    scratch, draw = Scratch(), np.random.default_rng(1)
    for size in (10, 3, 20, 10):
        parent: Array = draw.normal(size=size).astype(kind)
        values: list[Array] = [draw.normal(size=size).astype(kind) for _ in range(7)]
        again = combined(values, parent, [1 / 7] * 7, scratch)
        assert again.tolist() == combined(values, parent, [1 / 7] * 7).tolist()
        combined([np.zeros(2)] * 3, np.zeros(2), [1.0] * 3, scratch)


def test_its_arrays_are_as_many_as_the_levels_of_the_sum() -> None:
    scratch = Scratch()
    combined([np.ones(5, np.float32)] * 1000, np.zeros(5, np.float32), [0.001] * 1000, scratch)
    assert len(scratch.free) <= 11


def test_nobody_elses_values_are_changed() -> None:
    parent, values = np.ones(4, np.float32), [np.arange(4, dtype=np.float32)] * 3
    combined(list(values), parent, [0.5, 0.25, 0.25])
    assert (parent.tolist(), values[0].tolist()) == ([1, 1, 1, 1], [0, 1, 2, 3])
