"""The aggregation rules against Flower's and ByzFL's results, see aggregation/make.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.aggregation.cohorts import InMemoryCohort, cohort, merged
from umim.aggregation.centered_clipping import CenteredClipping
from umim.aggregation.clipping import clip_factors
from umim.aggregation.fedadagrad import FedAdagrad
from umim.aggregation.fedadam import FedAdam
from umim.aggregation.fedavg import FedAvg
from umim.aggregation.fedavgm import FedAvgM
from umim.aggregation.fedyogi import FedYogi
from umim.aggregation.geometric_median import GeometricMedian
from umim.aggregation.gram import norms
from umim.aggregation.interface import Matrix, ServerOptimiser, Strategy
from umim.aggregation.krum import Krum
from umim.aggregation.median import Median
from umim.aggregation.mixing import nearest_neighbors
from umim.aggregation.multi_krum import MultiKrum
from umim.aggregation.trimmed_mean import TrimmedMean

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "aggregation" / "rules.json").read_text(encoding="utf-8"),
)
CHANGES = np.array(GOLDEN["changes"])
FIRST = cohort(CHANGES[0], byzantine=2)


@pytest.mark.parametrize(
    ("name", "strategy", "relative"),
    [
        ("median", Median(), 1e-12),
        ("trimmed-mean", TrimmedMean(), 1e-12),
        ("centered-clipping", CenteredClipping(3, 2.5), 1e-9),
        # Both iterate until nothing moves any more.
        ("geometric-median", GeometricMedian(1000), 1e-6),
    ],
)
def test_robust_rules_give_what_byzfl_gives(name: str, strategy: Strategy, relative: float) -> None:
    assert merged(strategy, FIRST) == pytest.approx(np.array(GOLDEN["byzfl"][name]), rel=relative, abs=relative)


def test_mixing_gives_what_byzfl_gives() -> None:
    mixed = (nearest_neighbors(FIRST.gram(), 2)[:, :, None] * CHANGES[0][None]).sum(axis=1)
    assert mixed == pytest.approx(np.array(GOLDEN["byzfl"]["nearest-neighbors"]))


def test_clipping_gives_what_byzfl_gives() -> None:
    factors = clip_factors([float(norm) for norm in norms(FIRST.gram())], 3.0)
    assert np.array(factors)[:, None] * CHANGES[0] == pytest.approx(np.array(GOLDEN["byzfl"]["clipping"]))


@pytest.mark.parametrize(
    ("name", "strategy", "of"),
    [
        ("fedavg", FedAvg(), cohort(CHANGES[0], samples=GOLDEN["samples"])),
        ("krum", Krum(), FIRST),
        ("multi-krum", MultiKrum(), FIRST),
    ],
)
def test_rules_give_what_flower_gives(name: str, strategy: Strategy, of: InMemoryCohort) -> None:
    assert merged(strategy, of) == pytest.approx(np.array(GOLDEN["flwr"][name]))


RATES = GOLDEN["optimisers"]["fedadam-rates"]


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("fedavgm", [FedAvgM(0.9, 0.5)] * 4),
        ("fedadam", [FedAdam(rate) for rate in RATES]),
        ("fedyogi", [FedYogi()] * 4),
        ("fedadagrad", [FedAdagrad()] * 4),
    ],
)
def test_server_optimisers_give_what_flower_gives(
    name: str, rounds: list[FedAvgM | FedAdam | FedYogi | FedAdagrad]
) -> None:
    model: Matrix = np.zeros(CHANGES.shape[2])
    state = _start(rounds[0].optimiser, model.size)
    for number, strategy in enumerate(rounds):
        change = np.asarray(merged(strategy, cohort(CHANGES[number], samples=GOLDEN["samples"])), np.float64)
        step, state = strategy.optimiser.step(change, state)
        model = model + step
        assert model == pytest.approx(np.array(GOLDEN["optimisers"][name][number]))


def _start(optimiser: ServerOptimiser, size: int) -> Mapping[str, Matrix]:
    return {slot: np.zeros(size) for slot in optimiser.slots}
