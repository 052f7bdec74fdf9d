"""Comparing models over data sets. Pure; the data set is the unit, never the image or the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
"""Coverage of all intervals."""
RESAMPLES = 10_000
MOST_TIED = 20
"""Differences that are enumerated where some are equal in size: 2 ** 20 signs."""


@dataclass(frozen=True)
class Interval:
    """An interval of 95 %."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


@dataclass(frozen=True)
class Comparison:
    """One model against another over data sets. Differences are first - second, of means over seeds."""

    differences: Mapping[str, float]
    """By data set, sorted by name."""
    wins: int
    """Data sets with a positive difference."""
    losses: int
    """Data sets with a negative difference."""
    median: float
    """Median difference."""
    median_interval: Interval
    """See ``median_interval``."""
    p_value: float
    """See ``signed_rank``."""


def compare(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], seed: int) -> Comparison:
    """Compare two models: scores by data set, one a seed (training seed, not draw of labels).

    Raises ValueError when the data sets are not the same, or one has no score.
    """
    if first.keys() != second.keys():
        raise ValueError(f"data sets differ: {sorted(first.keys() ^ second.keys())} are on one side only")
    differences = {name: _mean(name, first[name]) - _mean(name, second[name]) for name in sorted(first)}
    values = list(differences.values())
    return Comparison(
        differences,
        wins=sum(value > 0 for value in values),
        losses=sum(value < 0 for value in values),
        median=median_difference(values),
        median_interval=median_interval(values, seed),
        p_value=signed_rank(values),
    )


def signed_rank(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test. The smallest possible is 2 / 2 ** n.

    Differences of 0 are left out, as Wilcoxon did (scipy's zero_method "wilcox"); with nothing left p is 1. Where
    differences are equal in size, they share their mean rank and all signs are enumerated. Raises ValueError for
    values that are not finite, for none, and for more than 20 with ties.
    """
    values = _checked(differences)
    values = values[values != 0]
    if not len(values):
        return 1.0
    if len(np.unique(np.abs(values))) == len(values):
        return float(stats.wilcoxon(values, method="exact").pvalue)
    if len(values) > MOST_TIED:
        raise ValueError(f"{len(values)} differences with ties; allowed are {MOST_TIED}")
    return float(stats.wilcoxon(values, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p adjusted for all the comparisons given (Holm 1979), by name in the order given.

    The i-th smallest of m is multiplied by m - i + 1, then made non-decreasing and cut at 1.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for index, name in enumerate(sorted(p_values, key=lambda one: (p_values[one], one))):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - index)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def median_difference(differences: Sequence[float]) -> float:
    """Return the median. Raises ValueError for none and for values that are not finite."""
    return float(np.median(_checked(differences)))


def median_interval(differences: Sequence[float], seed: int) -> Interval:
    """Return the percentile bootstrap interval of the median: data sets drawn anew 10 000 times, by the seed."""
    values = _checked(differences)
    random = np.random.Generator(np.random.PCG64(seed))
    medians = np.median(values[random.integers(len(values), size=(RESAMPLES, len(values)))], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's t interval of the mean, or None for a single value."""
    checked = _checked(values)
    if len(checked) < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(checked) - 1)) * float(checked.std(ddof=1)) / math.sqrt(len(checked))
    mean = float(checked.mean())
    return Interval(mean - half, mean + half)


def _mean(name: str, scores: Sequence[float]) -> float:
    if not len(scores):
        raise ValueError(f"data set {name} has no score")
    return math.fsum(scores) / len(scores)


def _checked(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values are {list(values)}; allowed are finite numbers, one at least")
    return array
