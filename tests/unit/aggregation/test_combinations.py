"""Rules that are combinations of the changes, against the papers' formulas on whole vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.aggregation.cohorts import InMemoryCohort, cohort, merged
from umim.aggregation.centered_clipping import CenteredClipping
from umim.aggregation.geometric_median import GeometricMedian
from umim.aggregation.interface import Array, Combination, Matrix, Strategy
from umim.aggregation.krum import Krum
from umim.aggregation.multi_krum import MultiKrum
from umim.aggregation.task_arithmetic import TaskArithmetic
from umim.aggregation.uniform import Uniform


def changes_of(sites: int, length: int = 40, seed: int = 0, liars: int = 0) -> Matrix:
    """Honest sites around a common change, after the liars."""
    random = np.random.default_rng(seed)
    found = random.normal(size=length) + 0.5 * random.normal(size=(sites, length))
    found[:liars] = -20 * random.normal(size=(liars, length))
    return np.asarray(found)


def coefficients(strategy: Strategy, of: InMemoryCohort) -> tuple[float, ...]:
    plan = strategy.plan(of)
    assert isinstance(plan, Combination)
    return plan.coefficients


def test_uniform_ignores_the_samples() -> None:
    changes = changes_of(3)
    assert merged(Uniform(), cohort(changes, samples=[1, 10, 1000])) == pytest.approx(changes.mean(axis=0))


def test_task_arithmetic_adds_the_changes() -> None:
    changes = changes_of(3)
    assert merged(TaskArithmetic(0.4), cohort(changes)) == pytest.approx(0.4 * changes.sum(axis=0))


def krum_scores_by_definition(changes: Matrix, byzantine: int) -> Matrix:
    """Blanchard et al. 2017, section 4."""
    scores = []
    for number, change in enumerate(changes):
        others = [((change - other) ** 2).sum() for index, other in enumerate(changes) if index != number]
        scores.append(sum(sorted(others)[: len(changes) - byzantine - 2]))
    return np.array(scores)


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1000))
def test_krum_chooses_by_its_definition(byzantine: int, more: int, seed: int) -> None:
    changes = changes_of(2 * byzantine + 3 + more, seed=seed, liars=byzantine)
    right = int(krum_scores_by_definition(changes, byzantine).argmin())
    assert coefficients(Krum(), cohort(changes, byzantine)).index(1.0) == right
    assert right >= byzantine


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1000))
def test_multi_krum_averages_all_but_the_worst(byzantine: int, more: int, seed: int) -> None:
    changes = changes_of(2 * byzantine + 3 + more, seed=seed, liars=byzantine)
    count = len(changes) - byzantine
    best = np.argsort(krum_scores_by_definition(changes, byzantine), kind="stable")[:count]
    assert merged(MultiKrum(), cohort(changes, byzantine)) == pytest.approx(changes[best].mean(axis=0))


def test_a_tie_goes_to_the_first_sites() -> None:
    changes = np.ones((5, 3))
    assert coefficients(Krum(), cohort(changes, 1)) == (1, 0, 0, 0, 0)
    assert coefficients(MultiKrum(), cohort(changes, 1)) == (0.25, 0.25, 0.25, 0.25, 0)


def weiszfeld(changes: Matrix, shares: Matrix, iterations: int, smoothing: float) -> Matrix:
    """Pillutla et al. 2019, algorithm 2, on whole vectors."""
    median = (shares[:, None] * changes).sum(axis=0)
    for _ in range(iterations):
        weights = shares / np.maximum(smoothing, np.sqrt(((changes - median) ** 2).sum(axis=1)))
        median = (weights[:, None] * changes).sum(axis=0) / weights.sum()
    return np.asarray(median)


@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 1000))
def test_the_geometric_median_follows_weiszfeld_on_whole_vectors(sites: int, iterations: int, seed: int) -> None:
    of = cohort(changes_of(sites, seed=seed, liars=sites // 3), samples=list(range(1, sites + 1)))
    right = weiszfeld(of.changes, np.array(of.shares), iterations, 1e-6)
    assert merged(GeometricMedian(iterations), of) == pytest.approx(right, rel=1e-6, abs=1e-6)


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    changes = changes_of(7, liars=2)
    found = merged(GeometricMedian(1000), cohort(changes))

    def distances(point: Array) -> float:
        return float(np.sqrt(((changes - point) ** 2).sum(axis=1)).sum())

    random = np.random.default_rng(1)
    assert all(distances(found) <= distances(found + 1e-3 * random.normal(size=found.size)) for _ in range(100))


def test_the_geometric_median_of_equal_changes_is_that_change() -> None:
    assert sum(coefficients(GeometricMedian(), cohort(np.ones((4, 3))))) == pytest.approx(1)
    assert merged(GeometricMedian(), cohort(np.zeros((4, 3)))).tolist() == [0, 0, 0]


def test_the_geometric_median_stops_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    following = GeometricMedian._following

    def counted(self: GeometricMedian, gram: Matrix, shares: Matrix, present: Matrix) -> Matrix:
        calls.append(1)
        return following(self, gram, shares, present)

    monkeypatch.setattr(GeometricMedian, "_following", counted)
    GeometricMedian(1000).plan(cohort(changes_of(1)))
    assert len(calls) == 1


def clipped_centre(changes: Matrix, iterations: int, radius: float) -> Matrix:
    """Karimireddy et al. 2020, algorithm 2, on whole vectors."""
    centre = np.zeros(changes.shape[1])
    for _ in range(iterations):
        moves = [
            (change - centre) * min(1.0, radius / max(1e-300, float(np.sqrt(((change - centre) ** 2).sum()))))
            for change in changes
        ]
        centre = centre + sum(moves) / len(changes)
    return np.asarray(centre)


@given(st.integers(1, 9), st.integers(1, 10), st.floats(0.01, 100), st.integers(0, 1000))
def test_centred_clipping_follows_its_formula(sites: int, iterations: int, radius: float, seed: int) -> None:
    of = cohort(changes_of(sites, seed=seed, liars=sites // 3))
    right = clipped_centre(of.changes, iterations, radius)
    assert merged(CenteredClipping(iterations, radius), of) == pytest.approx(right, rel=1e-6, abs=1e-6)


def test_the_radius_is_the_median_norm_unless_given() -> None:
    of = cohort(changes_of(7, liars=2))
    middle = float(np.median(np.sqrt((of.changes**2).sum(axis=1))))
    assert merged(CenteredClipping(), of) == pytest.approx(clipped_centre(of.changes, 3, middle), rel=1e-9)


def test_a_liar_moves_the_centre_by_no_more_than_its_share_of_the_radius() -> None:
    changes = np.zeros((5, 3))
    changes[0] = 1e12
    found = merged(CenteredClipping(1, 2.0), cohort(changes))
    assert np.sqrt((found**2).sum()) == pytest.approx(2.0 / 5)


def test_centred_clipping_of_nothing_is_nothing() -> None:
    assert merged(CenteredClipping(), cohort(np.zeros((3, 4)))).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("strategy", [Krum(), MultiKrum(), GeometricMedian(), CenteredClipping()])
def test_a_thousand_sites_are_no_trouble(strategy: Strategy) -> None:
    of = cohort(changes_of(1000, length=8, liars=100), 100)
    honest = of.changes[100:]
    spread = np.sqrt(((honest - honest.mean(axis=0)) ** 2).sum(axis=1)).max()
    assert np.sqrt(((merged(strategy, of) - honest.mean(axis=0)) ** 2).sum()) < 2 * spread


def test_who_may_lie_gains_nothing_by_many_samples() -> None:
    changes = changes_of(7, liars=2)
    for strategy in (Krum(), MultiKrum(), CenteredClipping()):
        many = cohort(changes, 2, samples=[10**9, 10**9, 1, 1, 1, 1, 1])
        assert coefficients(strategy, many) == coefficients(strategy, cohort(changes, 2))
