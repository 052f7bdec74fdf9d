"""Reports which updates are unlike the others. A report: it excludes nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from umim.aggregation.gram import norms, total, weighted
from umim.aggregation.interface import Matrix
from umim.api.artifacts import UpdateFigures

FEWEST = 4
"""Among fewer sites nobody is flagged: nobody knows who is the odd one."""
DEVIATIONS = 5.0
"""How many robust standard deviations (1.4826 x the median absolute deviation) from the median are unlike."""
NORM_RATIO = 3.0
"""And how many times larger or smaller than the median norm: honest sites with little spread are no outliers."""
COSINE_GAP = 0.3
"""And how far below the median cosine."""
_MAD = 1.4826


def outliers(sites: Sequence[str], gram: Matrix, shares: Sequence[float]) -> list[UpdateFigures]:
    """Return the figures of every site, in the order given.

    A site is an outlier when the logarithm of its norm lies more than ``DEVIATIONS`` robust standard deviations from
    the median and the norm more than ``NORM_RATIO`` times off, when it changed nothing and most others did, or when
    its cosine lies as many deviations, and more than ``COSINE_GAP``, below the median cosine.
    """
    lengths = [float(norm) for norm in norms(gram)]
    cosines = [_cosine(gram, np.array(shares), number) for number in range(len(sites))]
    flagged = [False] * len(sites)
    if len(sites) >= FEWEST:
        flagged = [norm or turn for norm, turn in zip(_odd_norms(lengths), _odd_cosines(cosines), strict=True)]
    return [
        UpdateFigures(site=site, norm=length, cosine=cosine, outlier=odd)
        for site, length, cosine, odd in zip(sites, lengths, cosines, flagged, strict=True)
    ]


def _cosine(gram: Matrix, shares: Matrix, number: int) -> float:
    # Summed without the site, not subtracted from the sum: beside a huge change the others would vanish.
    others = shares.copy()
    others[number] = 0
    products = weighted(gram, others)
    length = math.sqrt(max(0.0, total(others * products))) * math.sqrt(max(0.0, float(gram[number, number])))
    return max(-1.0, min(1.0, float(products[number]) / length)) if length > 0 else 0.0


def _odd_norms(lengths: Sequence[float]) -> list[bool]:
    moved = [math.log(length) for length in lengths if length > 0]
    if 2 * len(moved) <= len(lengths):
        return [False] * len(lengths)
    middle, spread = _middle_and_spread(moved)
    allowed = max(DEVIATIONS * spread, math.log(NORM_RATIO))
    return [length == 0 or abs(math.log(length) - middle) > allowed for length in lengths]


def _odd_cosines(cosines: Sequence[float]) -> list[bool]:
    middle, spread = _middle_and_spread(cosines)
    return [middle - cosine > max(DEVIATIONS * spread, COSINE_GAP) for cosine in cosines]


def _middle_and_spread(values: Sequence[float]) -> tuple[float, float]:
    middle = float(np.median(values))
    return middle, _MAD * float(np.median([abs(value - middle) for value in values]))
