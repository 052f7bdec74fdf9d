"""NVIDIA FLARE's ``WeightedAggregationHelper`` on numpy arrays and on torch tensors.

It takes one update after another, so from files only one is in memory. It has no median, trimmed mean or Krum.
"""

# The peers are installed in environments of their own only.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Iterable, Mapping

import safetensors.numpy
import safetensors.torch
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper

from tests.benchmarks.aggregation.peers.harness import Model, Peer, Task, float32, run


def _mean(models: Iterable[Model], task: Task) -> Model:
    helper = WeightedAggregationHelper()
    for number, (model, count) in enumerate(zip(models, task.samples, strict=True)):
        helper.add(model, count, f"site-{number}", 0)
    merged: Model = helper.get_result()
    return merged


def _save_numpy(model: Model, path: str) -> None:
    safetensors.numpy.save_file({name: float32(array) for name, array in model.items()}, path)


def _save_torch(model: Model, path: str) -> None:
    safetensors.torch.save_file(dict(model), path)


PEERS: Mapping[tuple[str, str], Peer] = {
    ("numpy", "mean"): Peer(safetensors.numpy.load_file, _mean, _save_numpy),
    ("torch", "mean"): Peer(safetensors.torch.load_file, _mean, _save_torch),
}

if __name__ == "__main__":
    run(PEERS)
