"""Flower's server: the functions of its strategies, old (``flwr.server``) and new (``flwr.serverapp``).

Updates are read from safetensors. ``aggregate_inplace`` and the functions on records work on serialized arrays, as they
come from Flower's network: making those belongs to reading.
"""

# The peers are installed in environments of their own only.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read at import

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import (
    aggregate,
    aggregate_inplace,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from safetensors.numpy import load_file, save_file

from tests.benchmarks.aggregation.peers.harness import Model, Peer, Task, float32, run

WEIGHT = "num-examples"


def _results(models: Iterable[Model], task: Task) -> tuple[list[str], list[tuple[list[Any], int]]]:
    held = list(models)
    return list(held[0]), [(list(model.values()), count) for model, count in zip(held, task.samples, strict=True)]


def _mean(models: Iterable[Model], task: Task) -> Model:
    names, results = _results(models, task)
    return dict(zip(names, aggregate(results), strict=True))


def _median(models: Iterable[Model], task: Task) -> Model:
    names, results = _results(models, task)
    return dict(zip(names, aggregate_median(results), strict=True))


def _trimmed(models: Iterable[Model], task: Task) -> Model:
    names, results = _results(models, task)
    return dict(zip(names, aggregate_trimmed_avg(results, task.byzantine / len(results)), strict=True))


def _krum(models: Iterable[Model], task: Task) -> Model:
    names, results = _results(models, task)
    return dict(zip(names, aggregate_krum(results, task.byzantine, 0), strict=True))


def _load_parameters(path: str) -> Model:
    arrays = load_file(path)
    return {"names": list(arrays), "parameters": ndarrays_to_parameters(list(arrays.values()))}


def _mean_in_place(models: Iterable[Model], task: Task) -> Model:
    held = list(models)
    fits: Any = [
        (None, FitRes(Status(Code.OK, ""), model["parameters"], count, {}))
        for model, count in zip(held, task.samples, strict=True)
    ]
    return dict(zip(held[0]["names"], aggregate_inplace(fits), strict=True))


def _load_record(path: str) -> Model:
    return {"arrays": ArrayRecord({name: Array(array) for name, array in load_file(path).items()})}


def _contents(models: Iterable[Model], task: Task) -> list[Any]:
    return [
        RecordDict({"arrays": model["arrays"], "metrics": MetricRecord({WEIGHT: count})})
        for model, count in zip(models, task.samples, strict=True)
    ]


def _mean_of_records(models: Iterable[Model], task: Task) -> Model:
    return dict(aggregate_arrayrecords(_contents(models, task), WEIGHT))


def _krum_of_records(models: Iterable[Model], task: Task) -> Model:
    contents = select_multikrum(_contents(models, task), task.byzantine, 1)
    return dict(aggregate_arrayrecords(contents, WEIGHT))


def _layers(models: Iterable[Model], task: Task, rule: Any) -> Model:
    """Do as FedMedian and FedTrimmedAvg of ``flwr.serverapp`` do in ``aggregate_train``."""
    records = [content["arrays"] for content in _contents(models, task)]
    merged = {}
    for name in list(records[0]):
        layers = [record.pop(name).numpy() for record in records]
        merged[name] = Array(np.asarray(rule(np.stack(layers))))
    return merged


def _median_of_records(models: Iterable[Model], task: Task) -> Model:
    return _layers(models, task, lambda stack: np.median(stack, axis=0))


def _trimmed_of_records(models: Iterable[Model], task: Task) -> Model:
    return _layers(models, task, lambda stack: trim_mean(stack, task.byzantine / len(task.updates)))


def _save(model: Model, path: str) -> None:
    save_file({name: float32(array) for name, array in model.items()}, path)


def _save_record(model: Model, path: str) -> None:
    save_file({name: float32(array.numpy()) for name, array in model.items()}, path)


PEERS: Mapping[tuple[str, str], Peer] = {
    ("aggregate", "mean"): Peer(load_file, _mean, _save),
    ("aggregate_inplace", "mean"): Peer(_load_parameters, _mean_in_place, _save),
    ("aggregate_arrayrecords", "mean"): Peer(_load_record, _mean_of_records, _save_record),
    ("aggregate_median", "median"): Peer(load_file, _median, _save),
    ("FedMedian", "median"): Peer(_load_record, _median_of_records, _save_record),
    ("aggregate_trimmed_avg", "trimmed-mean"): Peer(load_file, _trimmed, _save),
    ("FedTrimmedAvg", "trimmed-mean"): Peer(_load_record, _trimmed_of_records, _save_record),
    ("aggregate_krum", "krum"): Peer(load_file, _krum, _save),
    ("select_multikrum", "krum"): Peer(_load_record, _krum_of_records, _save_record),
}

if __name__ == "__main__":
    run(PEERS)
