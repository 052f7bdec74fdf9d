"""Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757): the mean of the updates that Krum likes best."""

from __future__ import annotations

import numpy as np

from umim.aggregation.interface import Cohort, Combination
from umim.aggregation.krum import krum_scores


class MultiKrum:
    """See ``Strategy``. Of K sites with f that may lie, K - f are averaged, each with the same weight.

    Their samples do not count: who may lie may lie about them. Ties go to the first site.
    """

    optimiser = None
    """None: the mean is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return 1 / (K - f) for the chosen sites, 0 for the others."""
        scores = krum_scores(cohort.gram(), cohort.byzantine)
        count = len(scores) - cohort.byzantine
        chosen = {int(number) for number in np.argsort(scores, kind="stable")[:count]}
        return Combination(tuple(1 / count if number in chosen else 0.0 for number in range(len(scores))))
