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

from tests.benchmarks.byzantine.attacks import ATTACKS, scaled, sign_flip
from tests.unit.aggregation.conftest import Federation
from tests.unit.aggregation.files import source, spec, update
from umim.aggregation.engine import Engine
from umim.aggregation.strategy import make_strategy
from umim.api.round import AggregationSpec

SITES = 8
VALUES = 200
ROUNDING = 1.001
"""Room for the rounding of float32."""
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
    engine = Engine(parent, updates, settings_, 1)
    plan = make_strategy(settings_).plan(engine)
    return np.concatenate([values.copy() for _, _, values in engine.merged(plan)]).astype(np.float32)


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
    """The kappa of both is at most 8 f / (K - f) (kappa + 1) (Allouah et al. 2023)."""
    liars = last(f)
    changes = ATTACKS[attack].forge(honest_changes(7), liars)
    mean, variance = spread(changes, liars)
    found = merged_change(changes, spec(rule, byzantine=f, mixing="nearest-neighbors"))
    kappa = 8 * f / (SITES - f) * (BOUNDS[rule](f) + 1)
    assert distance(found, mean) <= ROUNDING * math.sqrt(kappa * variance)


@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"nan"}))
def test_multi_krum_takes_no_liar_further_away_than_honest_sites_allow(attack: str, f: int) -> None:
    """Among the best K - f is a liar only when its score is at most the worst honest one's, at most 2 (K - f) D^2 with
    D the largest distance of an honest site from the mean; its q = K - 2 f - 1 honest neighbours bound its own.
    """
    liars = last(f)
    changes = ATTACKS[attack].forge(honest_changes(11), liars)
    mean, _ = spread(changes, liars)
    furthest = max(distance(one, mean) for one in changes[~liars])
    bound = math.sqrt(6 * (SITES - f) / (SITES - 2 * f - 1)) * furthest
    assert distance(merged_change(changes, spec("multi-krum", byzantine=f)), mean) <= ROUNDING * bound


@given(f=st.sampled_from([1, 2]), seed=st.integers(0, 2**16), factor=st.sampled_from([-1e6, -4.0, 0.0, 4.0, 1e6]))
@settings(max_examples=25, deadline=None)
def test_centred_clipping_comes_as_near_as_the_liars_share_of_the_radius(f: int, seed: int, factor: float) -> None:
    """While no honest site is clipped, each step leaves f / K of the distance and adds f / K of the radius."""
    changes, liars = honest_changes(seed), last(f)
    mean, _ = spread(changes, liars)
    away = float(np.linalg.norm(mean))
    radius = 2 * (away + max(distance(one, mean) for one in changes[~liars]))
    changes[liars] = (factor * mean).astype(np.float32)
    found = merged_change(changes, spec("centered-clipping", {"radius": radius, "iterations": 5}, byzantine=f))
    bound = away
    for _ in range(5):
        bound = f / SITES * (bound + radius)
    assert distance(found, mean) <= ROUNDING * bound


def test_one_liar_makes_of_fedavg_what_it_wants_and_of_no_robust_rule() -> None:
    """Lemma 1 of Blanchard et al. 2017, arXiv 1703.02757."""
    changes, liars = honest_changes(3), last(1)
    mean, _ = spread(changes, liars)
    furthest = max(distance(one, mean) for one in changes[~liars])
    wanted = np.full(VALUES, 50.0, np.float32)
    changes[-1] = SITES * wanted - changes[:-1].sum(axis=0)
    np.testing.assert_allclose(merged_change(changes, spec("fedavg")), wanted, rtol=1e-4)
    for rule in ROBUST:
        assert distance(merged_change(changes, spec(rule, byzantine=1)), mean) <= 3 * furthest, rule


@pytest.mark.parametrize("attack", [scaled, sign_flip])
def test_fedavg_is_further_off_than_any_robust_rule_under_large_changes(
    attack: Callable[[Changes, NDArray[np.bool_]], Changes],
) -> None:
    liars = last(2)
    changes = attack(honest_changes(5), liars)
    mean, _ = spread(changes, liars)
    off = {rule: distance(merged_change(changes, spec(rule, byzantine=2)), mean) for rule in ROBUST}
    assert max(off.values()) < distance(merged_change(changes, spec("fedavg")), mean)


@pytest.mark.parametrize("mixing", ["none", "nearest-neighbors"])
@pytest.mark.parametrize("rule", ROBUST)
def test_a_liar_gains_nothing_by_many_samples(rule: str, mixing: str) -> None:
    changes = sign_flip(honest_changes(9), last(1))
    settings_ = spec(rule, byzantine=1, mixing=mixing)
    modest = merged_change(changes, settings_)
    assert merged_change(changes, settings_, (*(10,) * (SITES - 1), 10**9)).tobytes() == modest.tobytes()


def test_without_byzantine_a_liar_gains_by_many_samples() -> None:
    changes = sign_flip(honest_changes(9), last(1))
    found = merged_change(changes, spec("fedavg"), (*(10,) * (SITES - 1), 10**9))
    np.testing.assert_allclose(found, changes[-1], rtol=1e-3, atol=1e-3)


def commit(federation: Federation, changes: Changes) -> None:
    federation.start({"w": torch.zeros(VALUES)})
    for number, change in enumerate(changes):
        federation.commit(f"site-{number}.x", {"w": torch.from_numpy(change)})


@pytest.mark.parametrize("rule", ["fedavg", *ROBUST])
def test_a_liar_that_sends_no_number_is_excluded_and_the_others_are_merged(federation: Federation, rule: str) -> None:
    byzantine = 0 if rule == "fedavg" else 1
    honest = honest_changes(13)
    commit(federation, ATTACKS["nan"].forge(honest, last(1)))
    result = federation.aggregate(aggregation=spec(rule, byzantine=byzantine))
    assert [(one.site, one.reason) for one in result.exclusions] == [("site-7.x", "NotFinite")]
    expected = merged_change(honest[:-1], spec(rule, byzantine=byzantine), (10,) * (SITES - 1))
    assert federation.merged()["w"].numpy().tobytes() == expected.tobytes()


def test_a_round_fails_when_too_few_are_left_for_the_rule(federation: Federation) -> None:
    commit(federation, ATTACKS["nan"].forge(honest_changes(13), last(2)))
    result = federation.aggregate(aggregation=spec("krum", byzantine=2))
    assert result.model_digest is None
    assert [one.reason for one in result.exclusions] == ["NotFinite", "NotFinite"]
    assert "krum with byzantine 2 needs 7" in result.message


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_an_attack_leaves_the_honest_changes_alone(attack: str) -> None:
    changes, liars = honest_changes(17), last(2)
    sent = ATTACKS[attack].forge(changes, liars)
    np.testing.assert_array_equal(sent[~liars], changes[~liars])
    assert (attack == "label-flip") == np.array_equal(sent, changes)


def test_the_attacks_send_what_their_papers_say() -> None:
    changes, liars = honest_changes(17), last(2)
    honest = changes[~liars].astype(np.float64)
    mean, deviation = honest.mean(axis=0), honest.std(axis=0)
    expected: dict[str, NDArray[np.float64]] = {
        "ipm": np.stack([-0.5 * mean] * 2),
        "alie": np.stack([mean - 1.5 * deviation] * 2),
        "sign-flip": -4.0 * changes[liars].astype(np.float64),
        "scaling": 100.0 * changes[liars].astype(np.float64),
    }
    for attack, rows in expected.items():
        np.testing.assert_allclose(ATTACKS[attack].forge(changes, liars)[liars], rows, rtol=1e-4, atol=1e-5)
