"""Updates on the local disk as mappings that hold nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from umim.aggregation.reader import SpilledTensors
from umim.artifacts.writer import write_safetensors


def test_a_file_is_a_mapping_of_its_tensors(tmp_path: Path) -> None:
    written = {"b": torch.ones(2), "a": torch.arange(3)}
    tensors = SpilledTensors(write_safetensors(written, tmp_path / "file").path)
    assert list(tensors) == ["a", "b"]
    assert len(tensors) == 2
    assert all(torch.equal(tensors[name], value) for name, value in written.items())
    with pytest.raises(KeyError):
        tensors["c"]
