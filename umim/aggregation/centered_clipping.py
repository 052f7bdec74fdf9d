"""Centred clipping (Karimireddy et al. 2020, arXiv 2012.10333): no site moves the model by more than a radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.gram import norms, squared_distances, total
from umim.aggregation.interface import Cohort, Combination, Matrix


@dataclass(frozen=True)
class CenteredClipping:
    """See ``Strategy``. Starts at the parent; all sites count the same.

    Every iterate is a combination of the changes, so that all its distances follow from the Gram matrix.
    """

    iterations: float = 3
    """How often the centre moves, a whole number."""
    radius: float | None = None
    """Largest distance that a site can pull from. None: the median of the norms of the changes."""

    optimiser = None
    """None: the last centre is the model."""

    def plan(self, cohort: Cohort) -> Combination:
        """Return the coefficients of the last centre."""
        gram = cohort.gram()
        radius = float(np.median(norms(gram))) if self.radius is None else self.radius
        centre: Matrix = np.zeros(len(gram))
        for _ in range(int(self.iterations)):
            distances = np.sqrt(squared_distances(gram, centre))
            near = distances <= radius
            # Divided by 1 where it is near: a distance of 0 is near.
            pulls = np.where(near, 1.0, radius / np.where(near, 1.0, distances)) / len(gram)
            centre = centre * (1 - total(pulls)) + pulls
        return Combination(tuple(float(one) for one in centre))
