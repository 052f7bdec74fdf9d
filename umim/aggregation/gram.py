"""Gram matrices of the sites' changes with the same bits on any machine, at the speed of BLAS.

A change is split into two scaled integers of 19 bits each, over so few values that every product and every partial sum
of products is an integer below 2^53. Such sums are exact in float64 in whatever order, with whatever width of SIMD,
with or without fused multiply-add, BLAS takes them (Ozaki et al. 2012, "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication and its applications").
"""

from __future__ import annotations

import numpy as np

from umim.aggregation.interface import Matrix
from umim.errors import ArtifactError

BITS = 19
"""Bits of each of the two integers: two of them and ``LONGEST`` values make 2^52."""
LONGEST = 1 << 14
"""Most values of a site in one product."""
CACHED = 1 << 19
"""Values of all sites in one product, where there are many sites: they stay in a core's cache."""
SHORTEST = 1 << 10
"""Fewest values of a site in one product, however many sites there are."""
LARGEST_EXPONENT = 480
"""Changes are smaller than 2^480: the sum of the squares of 2^60 of them is in the range of float64."""
SMALLEST_EXPONENT = -500
"""A slice whose changes are all below 2^-501 counts as 0: their squares are as good as 0 in float64."""


def block_gram(changes: Matrix) -> Matrix:
    """Return the inner products of the rows of a matrix of finite values: [K, n] -> [K, K], symmetric.

    The error is below 1e-10 of the product of two rows' norms. Results of several slices may be added in a fixed
    order. Raises ArtifactError naming the row (from 0) when a change is too large for its square.
    """
    sites, length = changes.shape
    total = np.zeros((sites, sites))
    step = min(LONGEST, max(SHORTEST, CACHED // max(1, sites)))
    for start in range(0, length, step):
        total += _exact(changes[:, start : start + step])
    return total


def _exact(changes: Matrix) -> Matrix:
    sites, length = changes.shape
    largest = np.maximum(changes.max(axis=1), -changes.min(axis=1))
    exponents = np.frexp(largest)[1]
    if int(exponents.max(initial=0)) > LARGEST_EXPONENT:
        row = int(exponents.argmax())
        raise ArtifactError(
            f"change {row} holds {largest[row]:g}: an inner product would leave the range of float64; "
            f"allowed: below 2^{LARGEST_EXPONENT}"
        )
    unit = np.where(exponents < SMALLEST_EXPONENT, 0.0, np.ldexp(1.0, BITS - np.maximum(exponents, SMALLEST_EXPONENT)))
    # One matrix of both: BLAS is faster at one product with twice as many rows than at three.
    both = np.empty((2 * sites, length))
    high, low = both[:sites], both[sites:]
    np.multiply(changes, unit[:, None], out=low)
    np.rint(low, out=high)
    np.subtract(low, high, out=low)
    np.multiply(low, float(1 << BITS), out=low)
    np.rint(low, out=low)
    products = _products(both)
    mixed = products[:sites, sites:]
    scaled = products[:sites, :sites] + (mixed + mixed.T) * 2.0**-BITS + products[sites:, sites:] * 2.0 ** (-2 * BITS)
    exact: Matrix = np.ldexp(scaled, exponents[:, None] + exponents[None, :] - 2 * BITS)
    return exact


def _products(rows: Matrix) -> Matrix:
    return np.asarray(rows @ rows.T)


def weighted(gram: Matrix, coefficients: Matrix) -> Matrix:
    """Return the inner products of every change with a combination of them, [K]. The order of all sums is fixed."""
    # Rows are contiguous: numpy's pairwise sum, in an order that depends on the length only.
    return np.asarray(np.add.reduce(gram * coefficients, axis=1))


def total(values: Matrix) -> float:
    """Return the sum of a 1-D array, in a fixed order."""
    return float(np.add.reduce(np.ascontiguousarray(values)))


def squared_distances(gram: Matrix, coefficients: Matrix) -> Matrix:
    """Return the squared distance of every change to a combination of them, [K]."""
    products = weighted(gram, coefficients)
    return np.maximum(np.diag(gram) - 2 * products + total(coefficients * products), 0)


def pairwise_distances(gram: Matrix) -> Matrix:
    """Return the squared distances of all changes to each other, [K, K], symmetric, 0 on the diagonal."""
    squares = np.diag(gram)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)


def norms(gram: Matrix) -> Matrix:
    """Return the L2 norms of the changes, [K]."""
    lengths: Matrix = np.sqrt(np.maximum(np.diag(gram), 0))
    return lengths
