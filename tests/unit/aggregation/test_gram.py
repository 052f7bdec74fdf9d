"""The Gram matrix: right, and of the same bits whatever computes its products."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.aggregation import gram
from umim.aggregation.gram import block_gram, norms, pairwise_distances, squared_distances, weighted
from umim.aggregation.interface import Matrix
from umim.errors import ArtifactError

VALUES = st.floats(-1e30, 1e30, allow_subnormal=True)
MATRICES = st.integers(1, 4).flatmap(
    lambda sites: st.integers(1, 30).flatmap(
        lambda length: st.lists(st.lists(VALUES, min_size=length, max_size=length), min_size=sites, max_size=sites)
    )
)


def exactly(changes: Matrix) -> list[list[Fraction]]:
    rows = [[Fraction(float(value)) for value in row] for row in changes]
    return [[sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0)) for b in rows] for a in rows]


def normal(sites: int, length: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=(sites, length))


def close_to_exact(changes: Matrix) -> bool:
    found, right = block_gram(changes), exactly(changes)
    return all(
        (Fraction(float(found[i, j])) - right[i][j]) ** 2 <= Fraction(10) ** -20 * right[i][i] * right[j][j]
        for i in range(len(changes))
        for j in range(len(changes))
    )


@given(MATRICES)
def test_inner_products_are_right_to_ten_digits_of_the_norms(rows: list[list[float]]) -> None:
    # Magnitudes whose squares float64 does not hold count as 0, see the test below.
    changes = np.array(rows)
    assert close_to_exact(np.where(np.abs(changes) < 1e-100, 0.0, changes))


def test_a_site_a_million_times_larger_than_the_others_does_not_spoil_their_products() -> None:
    changes = normal(4, 3000)
    changes[2] *= -1e6
    changes[3, 7] = 1e9
    assert close_to_exact(changes)


def test_several_blocks_are_right() -> None:
    changes = normal(3, 2 * gram.LONGEST + 5)
    assert block_gram(changes) == pytest.approx((changes[:, None, :] * changes[None, :, :]).sum(axis=2), abs=1e-7)


def test_the_result_is_symmetric() -> None:
    found = block_gram(normal(7, 40_000))
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("length", [1, 17, 1000, gram.LONGEST])
def test_the_order_of_the_values_in_a_block_does_not_matter_to_a_bit(length: int) -> None:
    changes = normal(5, length)
    shuffled = changes[:, np.random.default_rng(1).permutation(length)]
    assert np.array_equal(block_gram(changes), block_gram(shuffled))


def test_a_plain_loop_gives_the_same_bits_as_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    def looped(rows: Matrix) -> Matrix:
        products = np.zeros((len(rows), len(rows)))
        for column in rows.T:
            products += column[:, None] * column[None, :]
        return products

    changes = normal(3, 2000)
    right = block_gram(changes)
    monkeypatch.setattr(gram, "_products", looped)
    assert np.array_equal(block_gram(changes), right)


PROGRAM = """
import hashlib, numpy as np
from umim.aggregation.gram import block_gram
changes = np.random.default_rng(5).normal(size=(9, 50_000)) * 10.0 ** np.arange(-4, 5)[:, None]
print(hashlib.sha256(block_gram(changes).tobytes()).hexdigest())
"""


def test_the_bits_depend_on_neither_the_threads_nor_the_processor_that_blas_is_made_for() -> None:
    digests = set()
    for threads, core in (("1", "Haswell"), ("2", "Haswell"), ("2", "Sandybridge"), ("1", "Prescott")):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": core}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_one_site_and_no_values() -> None:
    assert block_gram(np.array([[3.0, 4.0]])).tolist() == [[25.0]]
    assert block_gram(np.empty((2, 0))).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert block_gram(np.zeros((2, 5))).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_magnitudes_whose_squares_float64_does_not_hold_count_as_zero() -> None:
    found = block_gram(np.array([[5e-324, 1e-310], [1e100, 1.0]]))
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1, 1] == pytest.approx(1e200)


def test_the_smallest_float32_counts() -> None:
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    assert block_gram(np.array([[smallest]]))[0, 0] == smallest**2


def test_a_change_too_large_to_square_is_an_error_that_names_it() -> None:
    with pytest.raises(ArtifactError, match=r"change 1 holds 1e\+300: .* allowed: below 2\^480"):
        block_gram(np.array([[1.0, 2.0], [0.0, -1e300]]))


def test_distances_to_a_combination_follow_from_the_gram_matrix() -> None:
    changes, coefficients = normal(4, 50), np.array([0.5, -1.0, 0.0, 2.0])
    point = (coefficients[:, None] * changes).sum(axis=0)
    found = block_gram(changes)
    assert squared_distances(found, coefficients) == pytest.approx(((changes - point) ** 2).sum(axis=1))
    assert weighted(found, coefficients) == pytest.approx((changes * point).sum(axis=1))
    assert norms(found) == pytest.approx(np.sqrt((changes**2).sum(axis=1)))


def test_distances_to_each_other_are_symmetric_and_zero_to_oneself() -> None:
    changes = normal(4, 50)
    changes[3] = changes[1]
    found = pairwise_distances(block_gram(changes))
    assert found == pytest.approx(((changes[:, None, :] - changes[None, :, :]) ** 2).sum(axis=2), abs=1e-9)
    assert np.array_equal(found, found.T)
    assert found[1, 3] == 0
