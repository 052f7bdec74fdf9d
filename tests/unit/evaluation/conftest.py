from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.parts import classification, write
from umim.evaluation.pack import Pack, load_pack
from umim.training.runtime import Runtime, start_runtime


@pytest.fixture(autouse=True, scope="session")
def runtime() -> Runtime:
    """The CPU with one thread, as for the tests of training."""
    assert not torch.cuda.is_available(), "these tests are for the CPU: set CUDA_VISIBLE_DEVICES="
    return start_runtime(threads=1)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Two classes that an untrained encoder can tell apart."""
    return load_pack(write(tmp_path, **classification()))
