"""Epsilon against opacus' published value, and against formulas that are written here a second time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from umim.errors import ConfigError
from umim.training.accountant import Mechanism, epsilon, noise_for

DELTA = 1e-5


def test_opacus_own_example_has_its_published_epsilon() -> None:
    # opacus/tests/accountants_test.py: noise 1.5, sample rate 0.04, 2250 steps.
    assert epsilon([Mechanism(1.5, 0.04, 2250)], DELTA) == pytest.approx(7.32911117143, abs=1e-8)


def sampled_gaussian_rdp(mechanism: Mechanism, order: int) -> float:
    """Mironov, Talwar, Zhang 2019 (arXiv 1908.10530), section 3.3, for a whole order, by the sum as it stands there."""
    q, sigma = mechanism.sample_rate, mechanism.noise_multiplier
    total = sum(
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp((k * k - k) / (2 * sigma * sigma))
        for k in range(order + 1)
    )
    return mechanism.steps * math.log(total) / (order - 1)


def converted(rdp: float, order: int, delta: float) -> float:
    """Balle et al. 2020 (arXiv 1905.09982), theorem 21."""
    return rdp + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)


@pytest.mark.parametrize(
    "mechanisms",
    [
        [Mechanism(1.1, 0.01, 1000)],
        [Mechanism(2.0, 0.05, 400)],
        [Mechanism(1.5, 0.02, 300), Mechanism(3.0, 0.1, 100), Mechanism(1.5, 0.02, 300)],
    ],
)
def test_epsilon_is_that_of_the_papers_formula(mechanisms: list[Mechanism]) -> None:
    by_hand = min(
        converted(sum(sampled_gaussian_rdp(one, order) for one in mechanisms), order, DELTA) for order in range(2, 40)
    )
    found = epsilon(mechanisms, DELTA)
    assert found <= by_hand + 1e-9  # orders between the whole ones can only be better
    assert found == pytest.approx(by_hand, rel=0.02)


def exact_gaussian(noise: float, delta: float) -> float:
    """The exact epsilon of one Gaussian mechanism: Balle and Wang 2018 (arXiv 1805.06530), theorem 8."""

    def excess(eps: float) -> float:
        first = stats.norm.cdf(0.5 / noise - eps * noise)
        return float(first - math.exp(eps) * stats.norm.cdf(-0.5 / noise - eps * noise) - delta)

    return float(optimize.brentq(excess, 0, 200))


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 4), (10.0, 25)])
def test_without_sampling_it_bounds_the_exact_epsilon_closely(noise: float, steps: int) -> None:
    exact = exact_gaussian(noise / math.sqrt(steps), DELTA)  # steps compose to one with less noise
    assert exact <= epsilon([Mechanism(noise, 1.0, steps)], DELTA) <= 1.15 * exact


def test_nothing_spends_nothing() -> None:
    assert epsilon([], DELTA) == 0


def test_a_composition_spends_less_than_the_sum_and_more_than_each() -> None:
    one, other = Mechanism(1.0, 0.1, 50), Mechanism(2.0, 0.3, 80)
    alone = [epsilon([each], DELTA) for each in (one, other)]
    assert max(alone) < epsilon([one, other], DELTA) < sum(alone)


def test_halves_of_a_training_spend_what_the_whole_does() -> None:
    assert epsilon([Mechanism(1.0, 0.1, 50)] * 2, DELTA) == epsilon([Mechanism(1.0, 0.1, 100)], DELTA)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.2, 20), st.floats(0.01, 1), st.integers(1, 300))
def test_the_least_noise_keeps_the_target_and_little_less_does_not(target: float, rate: float, steps: int) -> None:
    noise = noise_for(target, DELTA, rate, steps)
    assert epsilon([Mechanism(noise, rate, steps)], DELTA) <= target
    assert epsilon([Mechanism(noise * 0.9, rate, steps)], DELTA) > target


def test_a_target_that_no_noise_keeps_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"spec.training.differentialPrivacy.targetEpsilon 1e-05 at delta 1e-300"):
        noise_for(1e-5, 1e-300, 1.0, 10)


def test_the_worked_example_of_the_hospital_guide_is_right() -> None:
    """docs/hospital-guide.md: 4000 images, batches of 64, 2 epochs, noise 1.2, delta 1e-6, budget 3.5."""
    training = Mechanism(1.2, 64 / 4000, 126)
    told = {1: 1.30, 2: 1.54, 5: 2.19, 13: 3.47, 14: 3.60}
    assert {rounds: round(epsilon([training] * rounds, 1e-6), 2) for rounds in told} == told
    assert epsilon([Mechanism(1.5, 64 / 4000, 126)] * 21, 1e-6) < 3.5
