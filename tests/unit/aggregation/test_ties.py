"""TIES against its definition, computed value by value."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.aggregation.files import Spread, merged_values, spec

VALUES = st.integers(-800, 800).map(lambda number: number / 8)
"""Their differences are exact in float32: none is trimmed by rounding."""


def merged(parent: Sequence[float], sites: Sequence[Spread], density: float) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        return merged_values(parent, sites, Path(folder), settings=spec("ties", {"density": density}))


def by_definition(parent: Sequence[float], sites: Sequence[Spread], density: float) -> NDArray[np.float64]:
    """Yadav et al. 2023, algorithm 1, with the mean weighted by samples."""
    start = np.asarray(parent, np.float32).astype(np.float64)
    total = sum(samples for samples, _ in sites)
    changes = []
    for samples, values in sites:
        change = np.asarray(values, np.float32).astype(np.float64) - start
        kept = max(1, round(density * len(change)))
        smallest = np.sort(np.abs(change))[::-1][kept - 1]
        changes.append((samples / total, np.where(np.abs(change) >= smallest, change, 0)))
    result = start.copy()
    for index in range(len(start)):
        sign = np.sign(sum(share * change[index] for share, change in changes))
        agreeing = [(share, change[index]) for share, change in changes if change[index] * sign > 0]
        if agreeing:
            result[index] += sum(share * value for share, value in agreeing) / sum(share for share, _ in agreeing)
    return result


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 6).flatmap(
        lambda size: st.tuples(
            st.lists(VALUES, min_size=size, max_size=size),
            st.lists(
                st.tuples(st.integers(1, 1000), st.lists(VALUES, min_size=size, max_size=size)), min_size=1, max_size=4
            ),
        )
    ),
    st.sampled_from([0.2, 0.5, 1.0]),
)
def test_the_merge_follows_the_definition(
    case: tuple[list[float], list[tuple[int, list[float]]]], density: float
) -> None:
    parent, sites = case
    assert merged(parent, sites, density).numpy() == pytest.approx(
        by_definition(parent, sites, density), rel=1e-6, abs=1e-6
    )


def test_sites_that_disagree_with_the_majority_do_not_shrink_its_change() -> None:
    parent = [0.0]
    sites = [(1, [1.0]), (1, [1.0]), (1, [-1.0])]
    assert merged(parent, sites, 1.0).tolist() == pytest.approx([1.0])


def test_small_changes_are_trimmed() -> None:
    assert merged([0.0, 0.0], [(1, [5.0, 1.0])], 0.5).tolist() == [5.0, 0.0]


def test_one_site_that_changed_nothing_leaves_the_parent() -> None:
    assert merged([1.5, -2.0], [(3, [1.5, -2.0])], 0.3).tolist() == [1.5, -2.0]
