"""What comes before a rule: norm clipping and mixing; and the report on outliers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.aggregation.clipping import clip_factors
from umim.aggregation.gram import block_gram
from umim.aggregation.interface import Matrix
from umim.aggregation.mixing import nearest_neighbors, transformed
from umim.aggregation.outliers import outliers


def normal(sites: int, length: int = 30, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=(sites, length))


@given(st.lists(st.floats(0, 1e30), max_size=9), st.floats(1e-12, 1e12))
def test_no_clipped_change_is_longer_than_allowed_and_no_short_one_changes(norms: list[float], allowed: float) -> None:
    for norm, factor in zip(norms, clip_factors(norms, allowed), strict=True):
        assert norm * factor <= allowed * (1 + 1e-15)
        assert factor == 1 or norm > allowed


def mixed_by_definition(changes: Matrix, byzantine: int) -> Matrix:
    """Allouah et al. 2023, algorithm 2, on whole vectors."""
    count = len(changes) - byzantine
    mixed = []
    for change in changes:
        nearest = np.argsort(((changes - change) ** 2).sum(axis=1), kind="stable")[:count]
        mixed.append(changes[nearest].mean(axis=0))
    return np.stack(mixed)


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 1000))
def test_mixing_gives_the_mean_of_the_nearest(sites: int, byzantine: int, seed: int) -> None:
    changes = normal(sites, seed=seed)
    byzantine = min(byzantine, (sites - 1) // 2)
    matrix = nearest_neighbors(block_gram(changes), byzantine)
    mixed = (matrix[:, :, None] * changes[None]).sum(axis=1)
    assert mixed == pytest.approx(mixed_by_definition(changes, byzantine))
    assert (np.diag(matrix) > 0).all()


def test_ties_go_to_the_first_but_everyone_counts_oneself() -> None:
    matrix = nearest_neighbors(block_gram(np.ones((4, 3))), 2)
    assert matrix.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]]


@given(st.integers(1, 6), st.integers(0, 1000))
def test_the_gram_matrix_of_mapped_changes_follows(sites: int, seed: int) -> None:
    changes, matrix = normal(sites, seed=seed), normal(sites, sites, seed + 1)
    mapped = (matrix[:, :, None] * changes[None]).sum(axis=1)
    found = transformed(block_gram(changes), matrix)
    assert found == pytest.approx((mapped[:, None] * mapped[None]).sum(axis=2), rel=1e-9, abs=1e-8)
    assert np.array_equal(found, found.T)


def honest(sites: int, seed: int = 0) -> Matrix:
    """Changes that agree in part, of norms that differ by a factor of up to two."""
    random = np.random.default_rng(seed)
    found = random.normal(size=200) + 0.7 * random.normal(size=(sites, 200))
    return np.asarray(found * random.uniform(0.7, 1.4, size=(sites, 1)))


def flagged(changes: Matrix) -> list[int]:
    sites = [f"ns.h{number}" for number in range(len(changes))]
    figures = outliers(sites, block_gram(changes), [1 / len(changes)] * len(changes))
    assert [one.site for one in figures] == sites
    return [number for number, one in enumerate(figures) if one.outlier]


@given(st.integers(1, 20), st.integers(0, 300))
def test_honest_sites_are_not_flagged(sites: int, seed: int) -> None:
    assert flagged(honest(sites, seed)) == []


@pytest.mark.parametrize("liars", [1, 2])
@pytest.mark.parametrize(("attack", "factor"), [("sign flip", -1.0), ("scaling", 100.0), ("vanishing", 1e-3)])
def test_liars_are_flagged(liars: int, attack: str, factor: float) -> None:
    changes = honest(8)
    changes[:liars] *= factor
    assert flagged(changes) == list(range(liars)), attack


def test_who_changed_nothing_is_flagged_where_others_did() -> None:
    changes = honest(5)
    changes[2] = 0
    assert flagged(changes) == [2]


def test_nobody_is_flagged_where_most_changed_nothing_or_there_are_too_few() -> None:
    assert flagged(np.concatenate([np.zeros((4, 9)), np.ones((2, 9))])) == []
    assert flagged(np.array([[1.0, 0.0], [1.0, 0.0], [-9.0, 0.0]])) == []


def test_figures_are_the_norm_and_the_cosine_to_the_mean_of_the_others() -> None:
    changes, shares = normal(4), [0.1, 0.2, 0.3, 0.4]
    for number, one in enumerate(outliers(list("abcd"), block_gram(changes), shares)):
        others = sum(shares[index] * changes[index] for index in range(4) if index != number)
        norm = math.sqrt((changes[number] ** 2).sum())
        assert one.norm == pytest.approx(norm)
        assert one.cosine == pytest.approx((changes[number] * others).sum() / norm / math.sqrt((others**2).sum()))


def test_a_single_site_has_no_others() -> None:
    (one,) = outliers(["a.b"], block_gram(np.ones((1, 4))), [1.0])
    assert (one.norm, one.cosine, one.outlier) == (2.0, 0.0, False)
