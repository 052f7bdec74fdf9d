"""FedAvg against a float64 reference in numpy, and its algebra."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umim.aggregation.fedavg import FedAvg
from umim.aggregation.reader import WeightedUpdate
from umim.api.artifacts import TensorInfo

Site = tuple[int, list[float]]
VALUES = st.floats(-1e6, 1e6, width=32)
SAMPLES = st.integers(1, 10**9)


class InMemory:
    """A tensor source of one tensor, ``w``, that counts how many of its kind are alive."""

    alive = 0
    most_alive = 0

    def __init__(self, values: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        self.values = values
        self.dtype = dtype
        self.infos = {"w": TensorInfo(shape=[len(values)], dtype="F32")}

    def read(self, name: str) -> torch.Tensor:
        assert name == "w"
        tensor = torch.tensor(self.values, dtype=self.dtype)
        InMemory.alive += 1
        InMemory.most_alive = max(InMemory.most_alive, InMemory.alive)
        weakref.finalize(tensor, InMemory.gone)
        return tensor

    @staticmethod
    def gone() -> None:
        InMemory.alive -= 1


def mean_of(sites: Sequence[Site], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    updates = [
        WeightedUpdate(f"site-{number}", samples, InMemory(values, dtype))
        for number, (samples, values) in enumerate(sites)
    ]
    merged = dict(FedAvg().merge(InMemory(sites[0][1]), updates, ["w"]))
    assert list(merged) == ["w"]
    assert merged["w"].dtype == torch.float64
    return merged["w"]


def federations(smallest: int = 1) -> st.SearchStrategy[list[Site]]:
    return st.integers(1, 5).flatmap(
        lambda size: st.lists(
            st.tuples(SAMPLES, st.lists(VALUES, min_size=size, max_size=size)), min_size=smallest, max_size=8
        )
    )


@settings(deadline=None)
@given(federations())
def test_it_is_the_weighted_mean_of_numpy(sites: list[Site]) -> None:
    values = np.array([values for _, values in sites], dtype=np.float64)
    expected = np.average(values, axis=0, weights=np.array([samples for samples, _ in sites], dtype=np.float64))
    scale = float(np.abs(values).max())
    np.testing.assert_allclose(mean_of(sites).numpy(), expected, rtol=1e-12, atol=1e-13 * scale)


@settings(deadline=None)
@given(federations())
def test_it_lies_between_the_smallest_and_the_largest_value(sites: list[Site]) -> None:
    values = np.array([values for _, values in sites], dtype=np.float64)
    slack = 1e-12 * float(np.abs(values).max())
    mean = mean_of(sites).numpy()
    assert (mean >= values.min(axis=0) - slack).all()
    assert (mean <= values.max(axis=0) + slack).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@settings(deadline=None)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=6), values=st.lists(VALUES, min_size=1, max_size=5))
def test_sites_that_agree_are_reproduced_exactly(dtype: torch.dtype, samples: list[int], values: list[float]) -> None:
    agreed = torch.tensor([value / 100 for value in values], dtype=dtype)
    mean = mean_of([(count, agreed.tolist()) for count in samples], dtype)
    assert torch.equal(mean.to(dtype), agreed)


@settings(deadline=None)
@given(federations(2), st.integers(2, 1000))
def test_only_the_ratio_of_the_samples_counts(sites: list[Site], factor: int) -> None:
    more = [(samples * factor, values) for samples, values in sites]
    torch.testing.assert_close(mean_of(sites), mean_of(more), rtol=1e-12, atol=1e-6)


def test_an_absurd_number_of_samples_does_not_overflow() -> None:
    assert mean_of([(10**400, [3e38]), (1, [1.0])]).tolist() == pytest.approx([3e38])


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    InMemory.alive = InMemory.most_alive = 0
    mean_of([(1, [1.0])] * 50)
    assert InMemory.most_alive <= 2
