"""Figures of several sites as one. Pure; shared by the aggregator and the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umim.api.base import Metrics


def weighted_means(told: Sequence[tuple[Mapping[str, float], int]]) -> Metrics:
    """Return the mean of each figure, weighted by samples (> 0), over those that tell it.

    ``told`` holds figures and number of samples of each site. Sums are taken in its order: sort it by site.
    """
    names = sorted({name for figures, _ in told for name in figures})
    return {name: _mean([(figures[name], samples) for figures, samples in told if name in figures]) for name in names}


def _mean(values: Sequence[tuple[float, int]]) -> float:
    total = sum(samples for _, samples in values)
    return sum(value * (samples / total) for value, samples in values)
