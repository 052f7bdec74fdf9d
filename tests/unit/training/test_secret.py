from random import Random

import pytest
import torch
from scipy import stats

from umim.training.secret import gaussian, uniform

CPU = torch.device("cpu")
COUNT = 100_001


def normal(entropy_seed: int = 0, deviation: float = 2.0) -> torch.Tensor:
    return gaussian(torch.Size((COUNT,)), deviation, Random(entropy_seed).randbytes, CPU)


def test_gaussian_values_are_distributed_as_they_should() -> None:
    values = normal()
    assert values.dtype == torch.float64
    assert stats.kstest(values.numpy() / 2.0, "norm").pvalue > 0.01
    assert abs(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) < 0.02


def test_uniform_values_are_distributed_as_they_should() -> None:
    values = uniform(COUNT, Random(1).randbytes)
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert stats.kstest(values.numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0,)])
def test_every_shape_is_served(shape: tuple[int, ...]) -> None:
    values = gaussian(torch.Size(shape), 1.0, Random(0).randbytes, CPU)
    assert values.shape == shape
    assert values.isfinite().all()


def test_no_byte_of_the_entropy_is_left_unused() -> None:
    # A seed of few bits can be tried out: torch's generator for the CPU takes 32 of them.
    asked: list[int] = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    gaussian(torch.Size((1000,)), 1.0, counted, CPU)
    assert sum(asked) == 8 * 1000


def test_the_largest_and_smallest_bytes_give_finite_values() -> None:
    for byte in (b"\x00", b"\xff"):
        assert gaussian(torch.Size((4,)), 1.0, lambda count, byte=byte: byte * count, CPU).isfinite().all()  # type: ignore[misc]
