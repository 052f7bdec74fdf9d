"""Known values and properties of the comparison over data sets."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umim.evaluation.statistics import (
    compare,
    holm,
    mean_interval,
    median_difference,
    median_interval,
    signed_rank,
)

EIGHT = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
VALUES = st.lists(st.floats(-1, 1).map(lambda value: round(value, 2)), min_size=1, max_size=9)
P_VALUES = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=6)


def test_eight_wins_of_eight_have_the_smallest_p() -> None:
    assert signed_rank(EIGHT) == 0.0078125
    assert signed_rank([-value for value in EIGHT]) == 0.0078125


def test_the_smallest_loss_doubles_p_and_a_large_one_weighs_more() -> None:
    assert signed_rank([-0.01, *EIGHT[1:]]) == 0.015625
    assert signed_rank([*EIGHT[:-1], -0.08]) == 0.1953125


def test_equal_differences_share_their_rank() -> None:
    # Ranks 1.5, 1.5, 3: of 8 sign patterns two are as extreme as all positive.
    assert signed_rank([0.1, 0.1, 0.2]) == 0.25
    assert signed_rank([0.1] * 8) == 0.0078125


def test_zeros_are_left_out_and_with_nothing_left_p_is_one() -> None:
    assert signed_rank([0.0, *EIGHT]) == 0.0078125
    assert signed_rank([0.0, 0.0]) == 1.0


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_p_is_two_sided_and_at_least_two_in_all_patterns(values: list[float]) -> None:
    p_value = signed_rank(values)
    assert min(1.0, 2 / 2 ** len(values)) - 1e-12 <= p_value <= 1
    assert p_value == pytest.approx(signed_rank([-value for value in values]))


@pytest.mark.parametrize("values", [[], [math.nan], [0.1, math.inf]])
def test_values_that_are_none_or_not_finite_are_refused(values: list[float]) -> None:
    for function in (signed_rank, median_difference, mean_interval):
        with pytest.raises(ValueError, match="finite numbers, one at least"):
            function(values)


def test_too_many_ties_to_enumerate_are_refused() -> None:
    with pytest.raises(ValueError, match="21 differences with ties; allowed are 20"):
        signed_rank([0.1] * 21)


def test_holm_of_known_values() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert list(adjusted) == ["a", "b", "c"]


@given(P_VALUES)
def test_holm_never_lowers_p_and_keeps_the_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    for name, value in p_values.items():
        assert value <= adjusted[name] <= min(1.0, value * len(p_values)) + 1e-12
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


@given(VALUES, st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_interval_of_the_median_lies_within_the_values_and_is_seeded(values: list[float], seed: int) -> None:
    interval = median_interval(values, seed)
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert interval == median_interval(values, seed)


def test_the_interval_of_the_median_holds_the_median() -> None:
    interval = median_interval(EIGHT, seed=0)
    assert interval.low < median_difference(EIGHT) < interval.high


def test_the_interval_of_a_mean_is_students() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval is not None
    half = 4.302653 / math.sqrt(3)  # t quantile of 2 degrees of freedom; the deviation is 1
    assert interval.low == pytest.approx(2 - half, abs=1e-5)
    assert interval.high == pytest.approx(2 + half, abs=1e-5)
    assert mean_interval([1.0]) is None


def test_a_comparison_averages_seeds_within_a_data_set() -> None:
    first = {"b": [0.9, 0.7], "a": [0.5, 0.5]}
    second = {"a": [0.6, 0.6], "b": [0.7, 0.7]}
    found = compare(first, second, seed=0)
    assert list(found.differences) == ["a", "b"]
    assert found.differences == pytest.approx({"a": -0.1, "b": 0.1})
    assert (found.wins, found.losses) == (1, 1)
    assert found.median == pytest.approx(0.0)
    assert found.p_value == 1.0


def test_comparing_other_data_sets_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data sets differ: \['b'\]"):
        compare({"a": [1.0], "b": [1.0]}, {"a": [1.0]}, seed=0)
    with pytest.raises(ValueError, match="data set a has no score"):
        compare({"a": []}, {"a": [1.0]}, seed=0)
