"""Tensors files in memory, and merges of them without a store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from umim.aggregation.engine import Engine
from umim.aggregation.merge import Merged, merge_files
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import Update
from umim.api.round import AggregationSpec
from umim.artifacts.sources import MemorySource, Source
from umim.artifacts.tensors import read_safetensors

Tensors = Mapping[str, torch.Tensor]
Spread = tuple[int, Sequence[float]]
"""Number of samples and values of one site."""


def source(tensors: Tensors) -> MemorySource:
    """Return a tensors file."""
    return MemorySource(save(dict(tensors)))


def update(site: str, tensors: Tensors, samples: int = 10, **changes: Any) -> Update:
    """Return an update whose digest is to be checked; ``changes`` are fields of ``Update``."""
    data = save(dict(tensors))
    fields: dict[str, Any] = {"source": MemorySource(data), "digest": hashlib.sha256(data).hexdigest()}
    return Update(site, samples, **(fields | changes))


def spec(strategy: str = "fedavg", options: Mapping[str, float] | None = None, **changes: Any) -> AggregationSpec:
    """Return the settings of an aggregation."""
    return AggregationSpec(strategy=strategy, options=dict(options or {}), **changes)


def merge(
    parent: Tensors,
    updates: Sequence[Update],
    folder: Path,
    settings: AggregationSpec | None = None,
    threads: int = 2,
    scale: float = 1.0,
    slots: Mapping[str, Source] | None = None,
) -> Merged:
    """Merge updates in a folder as one attempt does."""
    settings = settings or spec()
    engine = Engine(source(parent), updates, settings, threads)
    return merge_files(make_strategy(settings), engine, folder, scale, slots)


def merged(parent: Tensors, updates: Sequence[Update], folder: Path, *args: Any, **named: Any) -> Tensors:
    """Return the tensors of a merge."""
    return read_safetensors(merge(parent, updates, folder, *args, **named).model.path)


def merged_values(
    parent: Sequence[float],
    sites: Sequence[Spread],
    folder: Path,
    dtype: torch.dtype = torch.float32,
    settings: AggregationSpec | None = None,
) -> torch.Tensor:
    """Return the merge of models with one tensor ``w`` of these values."""
    updates = [
        update(f"site-{number}", {"w": torch.tensor(values, dtype=dtype)}, samples)
        for number, (samples, values) in enumerate(sites)
    ]
    return merged({"w": torch.tensor(parent, dtype=dtype)}, updates, folder, settings)["w"]


def random_model(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Return tensors of one floating-point type, a counter, a mask, a scalar and an empty tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "large": scale * torch.randn(120, 70, generator=generator),
        "small": scale * torch.randn(7, generator=generator),
        "scalar": scale * torch.randn((), generator=generator),
        "empty": torch.zeros(0, 3),
        "steps": torch.tensor(seed),
        "mask": torch.tensor([seed % 2 == 0, True]),
    }


def mixed_model(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Return ``random_model`` with tensors of all floating-point types."""
    model = random_model(seed, scale)
    for number, dtype in enumerate((torch.float64, torch.float16, torch.bfloat16)):
        model[f"typed-{number}"] = random_model(seed + 1000 * (number + 1), scale)["large"].to(dtype)
    return model


def float64(values: Any) -> NDArray[np.float64]:
    """Return values as they are in float32, in float64."""
    return np.asarray(values, np.float32).astype(np.float64)
