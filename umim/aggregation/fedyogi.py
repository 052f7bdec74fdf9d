"""FedYogi (Reddi et al. 2020, arXiv 2003.00295): as FedAdam, but the second moment shrinks slowly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from umim.aggregation.fedadam import FedAdam
from umim.aggregation.interface import Matrix


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """See ``Strategy``. Options as of ``FedAdam``; 1 - beta2 of a squared change is added to the second moment, or
    taken from it."""

    def _second_moment(self, present: Matrix, squared: Matrix) -> Matrix:
        away: Matrix = np.sign(present - squared)
        return present - (1 - self.beta2) * squared * away
