"""What sites that lie send instead of their own change. They know the changes of all honest sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Changes = NDArray[np.float32]
"""The changes of the parent that the sites trained, [K, n]."""
Liars = NDArray[np.bool_]
"""Which of the sites lie, [K]."""

SIGN_FACTOR = 4.0
ALIE_DEVIATIONS = 1.5
IPM_SHARE = 0.5
SCALE_FACTOR = 100.0


def sign_flip(changes: Changes, liars: Liars) -> Changes:
    """Return the changes with the liars' own times -4 (RSA, Li et al. 2019, arXiv 1811.03761)."""
    return _with(changes, liars, changes[liars] * np.float32(-SIGN_FACTOR))


def alie(changes: Changes, liars: Liars) -> Changes:
    """Return the changes with every liar at mean - 1.5 deviations of the honest sites, value by value.

    "A little is enough" (Baruch et al. 2019, arXiv 1902.06156). Its formula for the number of deviations gives 0 or
    less with 1 or 2 liars among 8; 1.5 is what the paper's experiments take.
    """
    honest = changes[~liars]
    return _with(changes, liars, honest.mean(axis=0) - np.float32(ALIE_DEVIATIONS) * honest.std(axis=0))


def inner_product(changes: Changes, liars: Liars) -> Changes:
    """Return the changes with every liar at -0.5 times the honest mean (IPM, Xie et al. 2019, arXiv 1903.03936)."""
    return _with(changes, liars, changes[~liars].mean(axis=0) * np.float32(-IPM_SHARE))


def not_a_number(changes: Changes, liars: Liars) -> Changes:
    """Return the changes with one value of every liar's not a number."""
    forged = changes[liars].copy()
    forged[:, 0] = np.nan
    return _with(changes, liars, forged)


def scaled(changes: Changes, liars: Liars) -> Changes:
    """Return the changes with the liars' own times 100, as in model replacement (Bagdasaryan et al. 2018,
    arXiv 1807.00459).
    """
    return _with(changes, liars, changes[liars] * np.float32(SCALE_FACTOR))


def as_trained(changes: Changes, liars: Liars) -> Changes:
    """Return the changes as they are."""
    return changes


@dataclass(frozen=True)
class Attack:
    """One way to lie."""

    title: str
    """For the page."""
    forge: Callable[[Changes, Liars], Changes]
    """Puts what the liars send in the place of what they trained."""
    flips_labels: bool = False
    """Whether the liars train on labels c -> C - 1 - c of C classes."""


ATTACKS: Mapping[str, Attack] = {
    "sign-flip": Attack("their own change x -4 (Li et al. 2019, arXiv 1811.03761)", sign_flip),
    "alie": Attack(
        "the honest mean less 1.5 deviations, value by value (ALIE, Baruch et al. 2019, arXiv 1902.06156)", alie
    ),
    "ipm": Attack(
        "the honest mean x -0.5 (inner-product manipulation, Xie et al. 2019, arXiv 1903.03936)", inner_product
    ),
    "label-flip": Attack("what they trained with labels c -> 9 - c", as_trained, flips_labels=True),
    "nan": Attack("their own change with one value that is not a number", not_a_number),
    "scaling": Attack("their own change x 100 (Bagdasaryan et al. 2018, arXiv 1807.00459)", scaled),
}
"""The attacks by name."""


def _with(changes: Changes, liars: Liars, forged: Changes) -> Changes:
    result = changes.copy()
    result[liars] = forged
    return result
