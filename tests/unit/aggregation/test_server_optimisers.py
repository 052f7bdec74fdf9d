"""The server's optimisers, against the papers' formulas in several rounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.unit.aggregation.cohorts import cohort
from umim.aggregation.fedadagrad import FedAdagrad
from umim.aggregation.fedadam import FedAdam
from umim.aggregation.fedavgm import FedAvgM
from umim.aggregation.fedyogi import FedYogi
from umim.aggregation.interface import Combination, Matrix, ServerOptimiser

CHANGES = np.random.default_rng(0).normal(size=(6, 50))


def steps(optimiser: ServerOptimiser, changes: Matrix) -> Matrix:
    """Return what is applied in each round."""
    state: Mapping[str, Matrix] = {slot: np.zeros(changes.shape[1]) for slot in optimiser.slots}
    applied = []
    for change in changes:
        before = change.copy()
        step, state = optimiser.step(change, state)
        assert set(state) == set(optimiser.slots)
        assert np.array_equal(change, before)
        applied.append(step)
    return np.stack(applied)


def test_momentum_gathers() -> None:
    velocity, right = np.zeros(50), []
    for change in CHANGES:
        velocity = 0.7 * velocity + change
        right.append(0.3 * velocity)
    assert steps(FedAvgM(0.7, 0.3).optimiser, CHANGES) == pytest.approx(np.stack(right))


def test_momentum_of_zero_and_rate_of_one_apply_the_change_itself() -> None:
    assert np.array_equal(steps(FedAvgM(0.0, 1.0).optimiser, CHANGES), CHANGES)


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_adaptive_steps_follow_algorithm_2(name: str) -> None:
    rate, beta1, beta2, tau = 0.2, 0.8, 0.95, 0.01
    first, second, right = np.zeros(50), np.zeros(50), []
    for change in CHANGES:
        squared = change**2
        first = beta1 * first + (1 - beta1) * change
        second = {
            "adam": beta2 * second + (1 - beta2) * squared,
            "yogi": second - (1 - beta2) * squared * np.sign(second - squared),
            "adagrad": second + squared,
        }[name]
        right.append(rate * first / (np.sqrt(second) + tau))
    optimisers = {
        "adam": FedAdam(rate, beta1, beta2, tau).optimiser,
        "yogi": FedYogi(rate, beta1, beta2, tau).optimiser,
        "adagrad": FedAdagrad(rate, beta1, tau).optimiser,
    }
    assert steps(optimisers[name], CHANGES) == pytest.approx(np.stack(right))


@pytest.mark.parametrize("strategy", [FedAvgM(), FedAdam(), FedYogi(), FedAdagrad()])
def test_no_change_is_no_step(strategy: FedAvgM | FedAdam | FedYogi | FedAdagrad) -> None:
    assert not steps(strategy.optimiser, np.zeros((3, 4))).any()


@pytest.mark.parametrize("strategy", [FedAdam(), FedYogi(), FedAdagrad()])
def test_a_large_change_moves_a_value_by_no_more_than_some_rates(strategy: FedAdam | FedYogi | FedAdagrad) -> None:
    assert (np.abs(steps(strategy.optimiser, np.full((1, 3), 1e6))) <= 1.01 * strategy.server_learning_rate).all()


@pytest.mark.parametrize("strategy", [FedAvgM(), FedAdam(), FedYogi(), FedAdagrad()])
def test_the_gradient_is_the_mean_weighted_by_samples(strategy: FedAvgM | FedAdam | FedYogi | FedAdagrad) -> None:
    plan = strategy.plan(cohort(CHANGES[:2], samples=[1, 3]))
    assert plan == Combination((0.25, 0.75))
