"""Sites that lie, merged by the engine: what the theory of each rule promises, whatever the liars send."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.benchmarks.byzantine.attacks import ATTACKS
from tests.unit.aggregation.files import source, spec, update
from umim.aggregation.engine import Engine, Threads
from umim.aggregation.strategy import make_strategy
from umim.api.round import AggregationSpec

SITES = 8
VALUES = 200
ROUNDING = 1.001
"""Room for the rounding of float32, in bounds that are met with equality nowhere near."""
ROBUST = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centered-clipping")

Changes = NDArray[np.float32]


def median_bound(f: int) -> float:
    return 4 * (1 + f / (SITES - 2 * f)) ** 2


def trimmed_bound(f: int) -> float:
    return 6 * f / (SITES - 2 * f) * (1 + f / (SITES - 2 * f))


def krum_bound(f: int) -> float:
    """With the K - f - 2 neighbours of Blanchard et al.: the chosen update has at least q = K - 2 f - 1 honest ones
    among them and itself, and its score is at most the mean of the honest ones' scores.
    """
    honest, near, sure = SITES - f, SITES - f - 2, SITES - 2 * f - 1
    return 2 * honest / sure * (2 * near / (honest - 1) + 1)


BOUNDS: Mapping[str, Callable[[int], float]] = {
    "median": median_bound,
    "trimmed-mean": trimmed_bound,
    "geometric-median": median_bound,
    "krum": krum_bound,
}
"""kappa of the (f, kappa)-robust rules (Allouah et al. 2023, arXiv 2302.01772, table 1): the squared distance of the
merge from the honest mean is at most kappa times the mean squared distance of the honest sites from it.
"""


def honest_changes(seed: int, apart: float = 1.0) -> Changes:
    """Changes that share a direction and differ by noise, some sites more than others, [K, n]."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=VALUES)
    noise = apart * random.uniform(0.2, 2, size=(SITES, 1)) * random.normal(size=(SITES, VALUES))
    return (shared + noise).astype(np.float32)


def merged_change(changes: Changes, settings_: AggregationSpec, samples: Sequence[int] = (10,) * SITES) -> Changes:
    """The engine's merge of sites that start from a parent of zeros."""
    parent = source({"w": torch.zeros(changes.shape[1])})
    updates = [
        update(f"site-{number}", {"w": torch.from_numpy(change)}, count)
        for number, (change, count) in enumerate(zip(changes, samples, strict=True))
    ]
    engine = Engine(parent, updates, settings_, Threads(1, 1))
    plan = make_strategy(settings_).plan(engine)
    return np.concatenate([values for _, _, values in engine.merged(plan)]).astype(np.float32)


def distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))


def last(f: int) -> NDArray[np.bool_]:
    """The last f sites lie."""
    return np.arange(SITES) >= SITES - f


def spread(changes: Changes, liars: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """The honest mean, and the mean squared distance of the honest sites from it."""
    honest = changes[~liars].astype(np.float64)
    mean = honest.mean(axis=0)
    return mean, float(((honest - mean) ** 2).sum(axis=1).mean())


@given(
    rule=st.sampled_from(sorted(BOUNDS)),
    f=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**16),
    factor=st.sampled_from([-1e6, -1e3, -4.0, -0.5, 0.0, 0.5, 4.0, 1e3, 1e6]),
    along=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_robust_rule_stays_within_its_kappa_of_the_honest_mean(
    rule: str, f: int, seed: int, factor: float, along: bool
) -> None:
    changes, liars = honest_changes(seed), last(f)
    mean, variance = spread(changes, liars)
    towards = mean if along else np.random.default_rng(seed + 1).normal(size=VALUES)
    changes[liars] = (factor * towards).astype(np.float32)
    found = merged_change(changes, spec(rule, byzantine=f))
    assert distance(found, mean) <= ROUNDING * math.sqrt(BOUNDS[rule](f) * variance)


@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"nan"}))
@pytest.mark.parametrize("rule", sorted(BOUNDS))
def test_mixing_keeps_the_rule_within_the_kappa_of_both(rule: str, attack: str, f: int) -> None:
    """8 f / (K - f) (kappa + 1), lemma 5 of Allouah et al. 2023."""
    liars = last(f)
    changes = ATTACKS[attack].forge(honest_changes(7), liars)
    mean, variance = spread(changes, liars)
    found = merged_change(changes, spec(rule, byzantine=f, mixing="nearest-neighbors"))
    kappa = 8 * f / (SITES - f) * (BOUNDS[rule](f) + 1)
    assert distance(found, mean) <= ROUNDING * math.sqrt(kappa * variance)
