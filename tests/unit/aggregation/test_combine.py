"""Weighted sums of changes: pairwise, with the same bits as numpy, from values wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umim.aggregation.combine import BLOCK, combined
from umim.aggregation.interface import Array

KINDS = (np.float32, np.float64)


def merged(values: list[Array], parent: Array, coefficients: list[float]) -> Array:
    out = np.full_like(parent, np.nan)
    assert combined(values, parent, coefficients, out)
    return out


def by_numpy(values: list[Array], parent: Array, coefficients: list[float]) -> Array:
    """The same tree of sums, one operation after another."""
    sums: list[tuple[int, Array]] = [(0, np.zeros_like(parent))] if not values else []
    for value, coefficient in zip(values, coefficients, strict=True):
        level, total = 0, (value - parent) * parent.dtype.type(coefficient)
        while sums and sums[-1][0] == level:
            level, total = level + 1, sums.pop()[1] + total
        sums.append((level, total))
    while len(sums) > 1:
        last = sums.pop()[1]
        sums.append((0, sums.pop()[1] + last))
    return sums[0][1] + parent


def drawn(sites: int, size: int, seed: int, kind: type[np.floating[Any]]) -> tuple[list[Array], Array, list[float]]:
    draw = np.random.default_rng(seed)
    values: list[Array] = [draw.normal(size=size).astype(kind) for _ in range(sites)]
    return values, draw.normal(size=size).astype(kind), [float(one) for one in draw.uniform(-1, 1, sites)]


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 40), st.integers(0, 3 * BLOCK), st.integers(0, 1000), st.sampled_from(KINDS))
def test_it_has_the_bits_of_numpys_elementwise_operations(
    sites: int, size: int, seed: int, kind: type[np.floating[Any]]
) -> None:
    given_ = drawn(sites, size, seed, kind)
    assert merged(*given_).tobytes() == by_numpy(*given_).tobytes()


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 30), st.integers(0, 1000), st.sampled_from(KINDS))
def test_it_is_the_parent_and_the_weighted_sum_of_the_changes(
    sites: int, size: int, seed: int, kind: type[np.floating[Any]]
) -> None:
    values, parent, coefficients = drawn(sites, size, seed, kind)
    expected = sum(
        (one * (value.astype(float) - parent) for one, value in zip(coefficients, values, strict=True)),
        parent.astype(float),
    )
    found = merged(values, parent, coefficients)
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected, rtol=0, atol=60 * float(np.finfo(kind).eps))


def test_errors_grow_with_the_logarithm_of_the_number_of_sites() -> None:
    draw = np.random.default_rng(0)
    values: list[Array] = [draw.uniform(0.5, 1, 4096).astype(np.float32) for _ in range(1024)]
    exact = np.sum([value.astype(float) for value in values], axis=0)
    found = merged(values, np.zeros(4096, np.float32), [1.0] * 1024)
    # Difference, coefficient, product, 10 levels of sums. One after the other it would be a thousand.
    assert np.abs(found / exact - 1).max() <= 13 * 2.0**-24


def test_without_sites_nothing_changes() -> None:
    assert merged([], np.ones(3, np.float32), []).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, BLOCK + 4])
def test_what_is_not_finite_is_said_wherever_it_is(kind: type[np.floating[Any]], place: int) -> None:
    values, parent, coefficients = drawn(5, BLOCK + 5, 0, kind)
    for wrong in (np.nan, np.inf, -np.inf):
        values[3][place] = wrong
        assert not combined(values, parent, coefficients, np.empty_like(parent))
    values[3][place] = np.finfo(kind).max
    assert not combined(values, parent, [4.0] * 5, np.empty_like(parent))  # a sum that leaves the range


@pytest.mark.parametrize("kind", KINDS)
def test_values_may_lie_anywhere_and_be_read_only(kind: type[np.floating[Any]]) -> None:
    values, parent, coefficients = drawn(3, 50, 0, kind)
    expected = merged(values, parent, coefficients)
    odd = [np.frombuffer(b"x" + one.tobytes(), kind, offset=1) for one in values]
    strided = [np.repeat(one, 2)[::2] for one in values]
    frozen = np.frombuffer(parent.tobytes(), kind)
    assert merged(odd, frozen, coefficients).tobytes() == expected.tobytes()
    assert merged(strided, parent, coefficients).tobytes() == expected.tobytes()


def test_values_of_another_length_or_type_are_refused() -> None:
    out = np.zeros(4, np.float32)
    for wrong in (np.zeros(3, np.float32), np.zeros(5, np.float32), np.zeros(4), np.zeros((4, 1), np.float32)):
        with pytest.raises(TypeError, match="beside float32 of shape"):
            combined([out.copy(), wrong], out.copy(), [0.5, 0.5], out)
        with pytest.raises(TypeError, match="beside float32 of shape"):
            combined([out.copy()], wrong, [1.0], out)
    with pytest.raises(ValueError, match="2 values and 1 coefficients"):
        combined([out.copy(), out.copy()], out.copy(), [1.0], out)


def test_nobody_elses_values_are_changed() -> None:
    parent, values = np.ones(4, np.float32), [np.arange(4, dtype=np.float32)] * 3
    merged(list(values), parent, [0.5, 0.25, 0.25])
    assert (parent.tolist(), values[0].tolist()) == ([1, 1, 1, 1], [0, 1, 2, 3])
