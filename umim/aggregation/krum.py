"""Krum (Blanchard et al. 2017, arXiv 1703.02757): the one update that lies nearest to its neighbours."""

from __future__ import annotations

import numpy as np

from umim.aggregation.gram import pairwise_distances
from umim.aggregation.interface import Cohort, Combination, Matrix


class Krum:
    """See ``Strategy``. The model is one site's model; ties go to the first site."""

    optimiser = None
    """None: the chosen update is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return 1 for the chosen site, 0 for the others."""
        scores = krum_scores(cohort.gram(), cohort.byzantine)
        chosen = int(scores.argmin())
        return Combination(tuple(float(number == chosen) for number in range(len(scores))))


def krum_scores(gram: Matrix, byzantine: int) -> Matrix:
    """Return of every site the sum of squared distances to its K - f - 2 nearest others, [K]. Small is good.

    K is at least 2 f + 3.
    """
    distances = pairwise_distances(gram)
    np.fill_diagonal(distances, np.inf)
    distances.sort(axis=1)
    # Contiguous rows: summed in a fixed order.
    return np.asarray(np.add.reduce(np.ascontiguousarray(distances[:, : len(gram) - byzantine - 2]), axis=1))
