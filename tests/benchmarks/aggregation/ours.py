"""This project's engine, measured in a process of its own: ``python -m tests.benchmarks.aggregation.ours TASK``."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.benchmarks.aggregation.peers.harness import Task, report, task
from umim.aggregation.combine import combined
from umim.aggregation.engine import Engine, Threads
from umim.aggregation.merge import merge_files
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import Update
from umim.api.round import AggregationSpec
from umim.artifacts.sources import FileSource, MemorySource, Source

STRATEGIES: Mapping[str, str] = {"mean": "fedavg", "median": "median", "trimmed-mean": "trimmed-mean", "krum": "krum"}
ROBUST = frozenset({"trimmed-mean", "krum"})
THREADS = Threads(reading=2, reducing=2)


def main() -> None:
    """Measure one task."""
    given = task()
    _load()
    spec = AggregationSpec.model_validate(
        {"strategy": STRATEGIES[given.rule], "byzantine": given.byzantine if given.rule in ROBUST else 0}
    )
    if given.mode == "file":
        _from_files(given, spec)
    else:
        _in_memory(given, spec)


def _load() -> None:
    """Load what numba compiled before time and memory count, as everything that the peers import is loaded before."""
    two = np.zeros(2, np.float32)
    combined([two], two, [0.5], np.empty_like(two))


def _from_files(given: Task, spec: AggregationSpec) -> None:
    digests: Sequence[str | None] = [None] * len(given.updates)
    if given.path == "verified":
        digests = [_digest(path) for path in given.updates]
    output = Path(given.output)

    def work() -> None:
        with _opened([given.parent, *given.updates]) as (parent, *sources):
            engine = Engine(parent, _updates(given, sources, digests), spec, THREADS)
            merge_files(make_strategy(spec), engine, output.parent)

    report(work)
    (output.parent / "merged.safetensors").replace(output)


def _in_memory(given: Task, spec: AggregationSpec) -> None:
    parent, *sources = [MemorySource(_mapped(path)) for path in (given.parent, *given.updates)]
    # Tensors of torch, as our Jobs hold models. numpy asks for huge pages, which take long to get in full memory.
    merged: dict[str, torch.Tensor] = {}

    def work() -> None:
        engine = Engine(parent, _updates(given, sources, [None] * len(sources)), spec, THREADS)
        for piece, _, values in engine.merged(make_strategy(spec).plan(engine)):
            slot = piece.slot
            if piece.start == 0:
                merged[slot.name] = torch.empty(slot.elements, dtype=torch.float32)
            merged[slot.name].numpy()[piece.start : piece.stop] = values
        for slot in engine.layout.slots:
            merged[slot.name] = merged[slot.name].reshape(slot.info.shape)

    report(work)
    save_file(merged, given.output)


def _mapped(path: str) -> memoryview:
    """Return a file's bytes as safetensors gives them to torch: mapped, and in memory since the file was read before.

    A copy would be memory that a virtual machine touches for the first time, which costs more than the merge.
    """
    with Path(path).open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _updates(given: Task, sources: Sequence[Source], digests: Sequence[str | None]) -> list[Update]:
    # Named so that their order by name is the order of the files.
    return [
        Update(f"site-{number:04}", samples, source, digest)
        for number, (samples, source, digest) in enumerate(zip(given.samples, sources, digests, strict=True))
    ]


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(paths: Sequence[str]) -> Iterator[list[FileSource]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FileSource(Path(path))) for path in paths]


if __name__ == "__main__":
    main()
