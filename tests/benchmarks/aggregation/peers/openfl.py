"""OpenFL's aggregation functions, called for one tensor after another as its aggregator does."""

# The peers are installed in environments of their own only.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Iterable, Mapping

from openfl.interface.aggregation_functions import Median, WeightedAverage
from openfl.interface.aggregation_functions.weighted_average import weighted_average
from openfl.utilities import LocalTensor
from safetensors.numpy import load_file, save_file

from tests.benchmarks.aggregation.peers.harness import Model, Peer, Task, columns, float32, run


def _function(models: Iterable[Model], task: Task) -> Model:
    return {name: weighted_average(tensors, task.samples) for name, tensors in columns(list(models))}


def _called(function: WeightedAverage | Median, models: Iterable[Model], task: Task) -> Model:
    total = sum(task.samples)
    merged = {}
    for name, tensors in columns(list(models)):
        local = [
            LocalTensor(col_name=str(number), tensor=tensor, weight=count / total)
            for number, (tensor, count) in enumerate(zip(tensors, task.samples, strict=True))
        ]
        merged[name] = function.call(local)
    return merged


def _mean(models: Iterable[Model], task: Task) -> Model:
    return _called(WeightedAverage(), models, task)


def _median(models: Iterable[Model], task: Task) -> Model:
    return _called(Median(), models, task)


def _save(model: Model, path: str) -> None:
    save_file({name: float32(array) for name, array in model.items()}, path)


PEERS: Mapping[tuple[str, str], Peer] = {
    ("weighted_average", "mean"): Peer(load_file, _function, _save),
    ("WeightedAverage", "mean"): Peer(load_file, _mean, _save),
    ("Median", "median"): Peer(load_file, _median, _save),
}

if __name__ == "__main__":
    run(PEERS)
