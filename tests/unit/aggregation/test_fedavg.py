"""FedAvg and the plain mean against a float64 reference in numpy, and their algebra."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.aggregation.files import Spread, float64, merged_values, spec

VALUES = st.floats(-1e6, 1e6, width=32)
SAMPLES = st.integers(1, 10**9)
EPSILON = 2.0**-24
"""Largest relative error of one operation in float32."""


def mean_of(
    sites: Sequence[Spread],
    parent: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    strategy: str = "fedavg",
) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        start = [0.0] * len(sites[0][1]) if parent is None else parent
        return merged_values(start, sites, Path(folder), dtype, spec(strategy))


def reach(sites: Sequence[Spread], parent: Sequence[float]) -> NDArray[np.float64]:
    """Bound of the rounding at every place, in units of ``EPSILON``.

    The difference, the coefficient, the product and each of at most 3 levels of sums of up to 8 sites round once,
    relative to the largest change; so does the last sum, relative to its result.
    """
    values, start = float64([values for _, values in sites]), float64(parent)
    change = np.abs(values - start).max(axis=0)
    return np.asarray(7 * change + np.maximum(np.abs(start), np.abs(values).max(axis=0)) + 1e-37)


@st.composite
def federations(draw: st.DrawFn, smallest: int = 1) -> tuple[list[float], list[Spread]]:
    size = draw(st.integers(1, 5))
    model = st.lists(VALUES, min_size=size, max_size=size)
    return draw(model), draw(st.lists(st.tuples(SAMPLES, model), min_size=smallest, max_size=8))


@settings(deadline=None, max_examples=50)
@given(federations())
def test_it_is_the_weighted_mean_of_numpy_within_the_rounding_of_float32(
    case: tuple[list[float], list[Spread]],
) -> None:
    parent, sites = case
    weights = np.array([samples for samples, _ in sites], np.float64)
    expected = np.average(float64([values for _, values in sites]), axis=0, weights=weights)
    found = mean_of(sites, parent).double().numpy()
    assert (np.abs(found - expected) <= EPSILON * reach(sites, parent)).all()


@settings(deadline=None, max_examples=50)
@given(federations())
def test_uniform_is_the_mean_of_numpy_whatever_the_samples(case: tuple[list[float], list[Spread]]) -> None:
    parent, sites = case
    expected = float64([values for _, values in sites]).mean(axis=0)
    found = mean_of(sites, parent, strategy="uniform").double().numpy()
    assert (np.abs(found - expected) <= EPSILON * reach(sites, parent)).all()


@settings(deadline=None, max_examples=50)
@given(federations())
def test_it_lies_between_the_smallest_and_the_largest_value(case: tuple[list[float], list[Spread]]) -> None:
    parent, sites = case
    values = float64([values for _, values in sites])
    slack = EPSILON * reach(sites, parent)
    mean = mean_of(sites, parent).double().numpy()
    assert (mean >= values.min(axis=0) - slack).all()
    assert (mean <= values.max(axis=0) + slack).all()


@settings(deadline=None, max_examples=50)
@given(
    samples=st.lists(SAMPLES, min_size=1, max_size=8),
    agreed=st.lists(st.floats(1, 100, width=32), min_size=1, max_size=5),
    share=st.floats(-1 / 16, 1 / 16),
)
def test_small_changes_on_which_sites_agree_are_reproduced_exactly(
    samples: list[int], agreed: list[float], share: float
) -> None:
    # The rounding, 6 * 2^-24 of the change, is below half the last bit of the value: the last sum hits the value.
    parent = [value * (1 + share) for value in agreed]
    assert mean_of([(count, agreed) for count in samples], parent).tolist() == agreed


@settings(deadline=None, max_examples=50)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=8), case=federations())
def test_changes_of_any_size_on_which_sites_agree_are_reproduced_within_their_last_bits(
    samples: list[int], case: tuple[list[float], list[Spread]]
) -> None:
    parent, sites = case
    agreed = [(count, sites[0][1]) for count in samples]
    found = mean_of(agreed, parent).double().numpy()
    assert (np.abs(found - float64(sites[0][1])) <= EPSILON * reach(agreed, parent)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(deadline=None, max_examples=50)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=6), values=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5))
def test_values_of_16_bits_on_which_sites_agree_are_reproduced_exactly(
    dtype: torch.dtype, samples: list[int], values: list[float]
) -> None:
    # From 0 every change is its value. Summed in float32, which has 13 or 16 bits more.
    agreed = torch.tensor(values, dtype=dtype)
    mean = mean_of([(count, agreed.tolist()) for count in samples], dtype=dtype)
    assert torch.equal(mean, agreed)


@settings(deadline=None, max_examples=50)
@given(federations(2), st.integers(2, 1000))
def test_only_the_ratio_of_the_samples_counts(case: tuple[list[float], list[Spread]], factor: int) -> None:
    parent, sites = case
    more = [(samples * factor, values) for samples, values in sites]
    assert torch.equal(mean_of(sites, parent), mean_of(more, parent))


def test_an_absurd_number_of_samples_does_not_overflow() -> None:
    assert mean_of([(10**400, [3e38]), (1, [1.0])]).tolist() == pytest.approx([3e38])


def test_a_single_update_keeps_its_bits() -> None:
    values = [1e-45, -0.0, 3.4e38, 0.1]
    for dtype in (torch.float32, torch.float64):
        found = mean_of([(3, values)], [-3e38, 5.0, 0.0, 1e30], dtype)
        expected = torch.tensor(values, dtype=dtype)
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
