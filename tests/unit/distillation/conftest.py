import pytest
import torch

from umim.training.runtime import Runtime, start_runtime


@pytest.fixture(autouse=True, scope="session")
def runtime() -> Runtime:
    """The CPU with one thread: test machines are shared, and threads that wait for each other cost most there."""
    assert not torch.cuda.is_available(), "golden values and digests are for the CPU: set CUDA_VISIBLE_DEVICES="
    return start_runtime(threads=1)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are computed in float32 at least, by ``float()``; here in float64, which numeric gradients need."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
