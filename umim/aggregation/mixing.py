"""Nearest-neighbour mixing (NNM, Allouah et al. 2023, arXiv 2302.01772): each change becomes its neighbours' mean.

It makes honest sites alike before a robust rule looks at them, so that their differences do not hide a liar.
"""

from __future__ import annotations

import numpy as np

from umim.aggregation.gram import pairwise_distances, weighted
from umim.aggregation.interface import Matrix


def nearest_neighbors(gram: Matrix, byzantine: int) -> Matrix:
    """Return the K x K matrix that mixes K changes: row k holds 1 / (K - f) for the K - f changes nearest to k.

    The k-th itself is one of them. Ties go to the first. ``byzantine`` is f, below K.
    """
    distances = pairwise_distances(gram)
    np.fill_diagonal(distances, -1)
    count = len(gram) - byzantine
    matrix = np.zeros_like(gram)
    np.put_along_axis(matrix, np.argsort(distances, axis=1, kind="stable")[:, :count], 1 / count, axis=1)
    return matrix


def transformed(gram: Matrix, matrix: Matrix) -> Matrix:
    """Return the Gram matrix of mixed changes: M G M^T, symmetric. All sums have a fixed order: no BLAS."""
    half = np.stack([weighted(gram, row) for row in matrix])
    full = np.stack([weighted(half, row) for row in matrix])
    return (full + full.T) / 2
