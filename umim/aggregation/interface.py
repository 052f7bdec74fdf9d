"""How updates become one model: the interface of the rules.

A rule sees numpy arrays, one slice of one tensor at a time, and gives back the merged slice. It may ask before for
figures of whole updates (``Cohort``). Everything else (reading, verifying, threads, writing) is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """The same slice of one tensor of the parent and of all sites."""

    name: str
    """Name of the tensor."""
    values: Sequence[Array]
    """A 1-D array of each site, in the order of the sites: float32, or float64 where the model is. Read only."""
    parent: Array
    """The parent's values. Read only."""


class Reduction(Protocol):
    """Turns the sites' slices into the merged slice. Called from several threads at once."""

    def reduce(self, part: Part) -> Array:
        """Return the merged values in a new array. Each may depend on the values at its own place only."""
        ...


@dataclass(frozen=True)
class Combination:
    """parent + sum_k(coefficient_k * (x_k - parent)). The engine computes it without holding a difference.

    Sites with coefficient 0 are not read.
    """

    coefficients: tuple[float, ...]
    """One of each site, in the order of the sites."""


class Cohort(Protocol):
    """What a strategy may ask about the valid updates, sorted by site, at least one."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Each site's share of all training images. The sum is 1."""
        ...

    @property
    def byzantine(self) -> int:
        """How many sites may send anything. The number of sites suffices for it, see ``names.fewest_sites``."""
        ...

    def gram(self) -> Matrix:
        """Return the inner products of the sites' changes of the parent over the whole model, [K, K].

        Costs one pass over all updates, once. The same bits on any machine, see ``umim.aggregation.gram``.
        """
        ...

    def thresholds(self, density: float) -> Mapping[str, Matrix]:
        """Return for every tensor the K magnitudes that ``density`` of a site's changes reach, [K].

        Costs one pass over all updates.
        """
        ...


class ServerOptimiser(Protocol):
    """Treats the merged change as a gradient of the server (Reddi et al. 2020, arXiv 2003.00295).

    All arrays are 1-D slices of one tensor in float64; each value may depend on those at its own place only.
    """

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of what it remembers of every value from round to round. All start at 0."""
        ...

    def step(self, change: Matrix, state: Mapping[str, Matrix]) -> tuple[Matrix, Mapping[str, Matrix]]:
        """Return the change to apply to the parent, and the new state with all slots."""
        ...


class Strategy(Protocol):
    """One way to merge updates."""

    @property
    def optimiser(self) -> ServerOptimiser | None:
        """What follows the merge, or None."""
        ...

    def plan(self, cohort: Cohort) -> Combination | Reduction:
        """Return how to merge these updates."""
        ...
