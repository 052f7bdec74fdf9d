"""These tests need a GPU that torch can use. ``make test`` leaves them out; ``make test-gpu`` runs them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from umim.training.runtime import Runtime, start_runtime


@pytest.fixture(autouse=True, scope="session")
def runtime() -> Runtime:
    """The GPU as a hospital's Job uses it. Without one each test fails: none is skipped."""
    if not torch.cuda.is_available():
        pytest.fail(f"torch {torch.__version__} sees no CUDA device: run make test-gpu where it does", pytrace=False)
    return start_runtime(threads=1)


@pytest.fixture(autouse=True)
def empty_gpu(runtime: Runtime) -> Iterator[None]:
    """Each test finds the memory of the GPU unused and its peak at zero, and the settings of a Job."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let operations without a deterministic form warn, as they do in a Job (see ``start_runtime``)."""
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings(r"ignore:[\s\S]*determinis:UserWarning"))
