"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629): the mean of the updates, weighted by samples."""

from __future__ import annotations

from umim.aggregation.interface import Cohort, Combination


class FedAvg:
    """See ``Strategy``."""

    optimiser = None
    """None: the mean is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return each site's share of the samples."""
        return Combination(cohort.shares)
