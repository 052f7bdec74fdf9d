"""Median and trimmed mean, against numpy's sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.aggregation.cohorts import cohort, merged
from umim.aggregation import sorting
from umim.aggregation.interface import Array, Combination, Part
from umim.aggregation.median import Median
from umim.aggregation.sorting import middle, middle_network
from umim.aggregation.trimmed_mean import TrimmedMean

SITES_AND_DROP = st.integers(1, 40).flatmap(lambda sites: st.tuples(st.just(sites), st.integers(0, (sites - 1) // 2)))


def values(sites: int, length: int, seed: int = 0) -> Array:
    """Few different numbers, so that there are many ties."""
    return np.random.default_rng(seed).integers(-9, 9, size=(sites, length)).astype(np.float32)


def reduced(strategy: Median | TrimmedMean, rows: Array, parent: Array, byzantine: int = 0) -> Array:
    plan = strategy.plan(cohort(rows.astype(np.float64), byzantine))
    assert not isinstance(plan, Combination)
    return plan.reduce(Part("w", list(rows), parent))


@given(SITES_AND_DROP)
def test_a_network_leaves_the_values_in_the_middle(case: tuple[int, int]) -> None:
    sites, drop = case
    rows = values(sites, 300, seed=sites)
    for piece, kept in middle(list(rows), drop):
        right = np.sort(rows[:, piece], axis=0)[drop : sites - drop]
        assert np.array_equal(np.sort(np.stack(kept), axis=0), right)


@pytest.mark.parametrize("sites", range(1, 11))
def test_a_network_is_right_for_all_zeros_and_ones(sites: int) -> None:
    # A network of comparators that is right for these is right for all values (Knuth's 0-1 principle).
    rows = np.array([[pattern >> site & 1 for pattern in range(1 << sites)] for site in range(sites)], np.float32)
    for drop in range((sites - 1) // 2 + 1):
        for piece, kept in middle(list(rows), drop):
            assert np.array_equal(
                np.stack(kept).sum(axis=0), np.sort(rows, axis=0)[drop : sites - drop, piece].sum(axis=0)
            )


def test_a_network_to_drop_one_at_each_end_has_the_fewest_comparators_there_are() -> None:
    assert len(middle_network(16, 1)) == 3 * 16 // 2 - 2


@pytest.mark.parametrize("sites", [5, sorting.NETWORK_SITES, sorting.NETWORK_SITES + 1, 200, 1000])
def test_pieces_cover_all_places_and_the_sites_values_stay(sites: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "CACHED_BYTES", 1)
    rows = values(sites, 600)
    before = rows.copy()
    pieces = [piece for piece, _ in middle(list(rows), 2)]
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 256), (256, 512), (512, 600)]
    assert np.array_equal(rows, before)


@pytest.mark.parametrize("sites", [1, 2, 3, 8, 15, 33, 100])
def test_the_median_is_numpys(sites: int) -> None:
    rows = np.random.default_rng(3).normal(size=(sites, 1000)).astype(np.float32)
    found = reduced(Median(), rows, rows[0])
    assert found.dtype == np.float32
    assert found == pytest.approx(np.median(rows.astype(np.float64), axis=0), rel=1e-6, abs=1e-7)


def test_the_median_of_an_odd_number_is_one_of_the_values() -> None:
    rows = np.random.default_rng(3).normal(size=(7, 1000)).astype(np.float32)
    assert np.array_equal(reduced(Median(), rows, rows[0]), np.sort(rows, axis=0)[3])


def test_the_median_of_two_huge_values_does_not_leave_the_range() -> None:
    huge = np.full((2, 1), np.finfo(np.float32).max, np.float32)
    assert reduced(Median(), huge, huge[0]).tolist() == huge[0].tolist()


@pytest.mark.parametrize(("sites", "byzantine"), [(1, 0), (3, 1), (8, 2), (16, 1), (40, 7)])
def test_the_trimmed_mean_is_the_mean_of_the_middle(sites: int, byzantine: int) -> None:
    random = np.random.default_rng(4)
    parent = random.normal(size=1000).astype(np.float32)
    rows = (parent + 0.01 * random.normal(size=(sites, 1000))).astype(np.float32)
    right = np.sort(rows.astype(np.float64), axis=0)[byzantine : sites - byzantine].mean(axis=0)
    assert reduced(TrimmedMean(), rows, parent, byzantine) == pytest.approx(right, rel=2e-7, abs=1e-9)


@pytest.mark.parametrize("strategy", [Median(), TrimmedMean()])
def test_as_many_liars_as_allowed_do_not_move_a_value_out_of_the_honest_range(strategy: Median | TrimmedMean) -> None:
    honest = np.random.default_rng(5).normal(size=(5, 500))
    liars = np.stack([np.full(500, 1e30), np.full(500, -1e30)])
    found = merged(strategy, cohort(np.concatenate([liars, honest]), 2))
    assert (found >= honest.min(axis=0)).all()
    assert (found <= honest.max(axis=0)).all()


@pytest.mark.parametrize("strategy", [Median(), TrimmedMean()])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_result_of_zero_is_plus_zero(strategy: Median | TrimmedMean, kind: type[np.floating[np.generic]]) -> None:  # type: ignore[type-var]
    zeros = np.array([[0.0, -0.0, 0.0, -0.0], [-0.0, 0.0, 0.0, -0.0], [0.0, 0.0, -0.0, -0.0]], kind)
    found = reduced(strategy, zeros, -zeros[2])
    assert found.dtype == kind
    assert not np.signbit(found).any()
