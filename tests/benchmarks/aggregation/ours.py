"""This project's engine, measured in a process of its own: ``python -m tests.benchmarks.aggregation.ours TASK``."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.benchmarks.aggregation.peers.harness import Task, report, task
from tests.benchmarks.aggregation.plan import GROWTH
from umim.aggregation.combine import combined
from umim.aggregation.engine import Engine
from umim.aggregation.merge import merge_files
from umim.aggregation.run import range_bytes
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import Update
from umim.api.round import AggregationSpec
from umim.artifacts.floats import bytes_of
from umim.artifacts.local import LocalStore
from umim.artifacts.sources import MappedSource, MemorySource, Source, StoredSource
from umim.artifacts.writer import writing_tensors

STRATEGIES: Mapping[str, str] = {"mean": "fedavg", "median": "median", "trimmed-mean": "trimmed-mean", "krum": "krum"}
ROBUST = frozenset({"trimmed-mean", "krum"})
THREADS = 2


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
    two, mapped = np.zeros(2, np.float32), np.frombuffer(bytes(8), np.float32)  # that of a mapped file is read only
    combined([two, mapped], two, [0.5, 0.5], np.empty_like(two))


def _from_files(given: Task, spec: AggregationSpec) -> None:
    output, strategy = Path(given.output), make_strategy(spec)
    opened = _stored if given.path == GROWTH else _mapped_files

    def verified() -> None:
        with opened(given) as (parent, *sources):
            merge_files(strategy, Engine(parent, _updates(given, sources, digests), spec, THREADS), output.parent)

    def unverified() -> None:
        with opened(given) as (parent, *sources):
            engine = Engine(parent, _updates(given, sources, [None] * len(sources)), spec, THREADS)
            # Peers hash nothing, so neither is the model hashed here.
            with writing_tensors(output, engine.layout.infos, durable=False, hashed=False) as writer:
                for piece, _, values in engine.merged(strategy.plan(engine)):
                    writer.write(piece.slot.name, bytes_of(values, piece.slot.info.dtype))

    if given.path == "unverified":
        report(unverified)
        return
    digests = [_digest(path) for path in given.updates]
    report(verified)
    (output.parent / "merged.safetensors").replace(output)


def _in_memory(given: Task, spec: AggregationSpec) -> None:
    parent, *sources = [MemorySource(_mapped(path)) for path in (given.parent, *given.updates)]
    # Tensors of torch, as our Jobs hold models. numpy asks for huge pages, which take long to get in full memory.
    merged: dict[str, torch.Tensor] = {}

    def work() -> None:
        engine = Engine(parent, _updates(given, sources, [None] * len(sources)), spec, THREADS)
        for slot in engine.layout.slots:
            merged[slot.name] = torch.empty(slot.info.shape, dtype=torch.float32)
        into = {name: tensor.numpy().reshape(-1) for name, tensor in merged.items()}
        for _ in engine.merged(make_strategy(spec).plan(engine), into):
            pass

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
def _stored(given: Task) -> Iterator[list[Source]]:
    """Yield the same as a Job of the platform reads: in ranges, from a store that happens to be a folder."""
    root, paths = Path(os.path.commonpath(given.updates)), [Path(one) for one in given.updates]
    store, size = LocalStore(root), range_bytes(len(paths))
    with MappedSource(Path(given.parent)) as parent:
        yield [parent, *(StoredSource(store, str(one.relative_to(root)), one.stat().st_size, size) for one in paths)]


@contextmanager
def _mapped_files(given: Task) -> Iterator[list[Source]]:
    """Yield the parent and the updates: files of this process's own, mapped, as the peers map them."""
    with ExitStack() as stack:
        yield [stack.enter_context(MappedSource(Path(path))) for path in (given.parent, *given.updates)]


if __name__ == "__main__":
    main()
