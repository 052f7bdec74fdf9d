"""One measurement in a process of its own: what is timed, and how much memory it takes.

Runs in the peers' environments too, so it needs the standard library and numpy only. The task comes as JSON in the
first argument, the result goes as one line of JSON to stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Model = Mapping[str, Any]
"""Tensors by name, in whatever the peer takes."""


@dataclass(frozen=True)
class Task:
    """What to measure."""

    path: str
    """Which of the system's ways to aggregate."""
    rule: str
    """mean, median, trimmed-mean or krum."""
    mode: str
    """bare: updates and model in memory. file: from files to a file."""
    updates: list[str]
    """The updates' files."""
    samples: list[int]
    """Their numbers of samples."""
    byzantine: int
    """How many values are trimmed at each end, and Krum's f."""
    parent: str
    """The parent's file. Only this project needs it."""
    output: str
    """Where the merged model goes."""


@dataclass(frozen=True)
class Peer:
    """One way of a system to aggregate. The three steps are as its own server takes them."""

    load: Callable[[str], Model]
    """Read one update."""
    reduce: Callable[[Iterable[Model], Task], Model]
    """Merge. A peer that takes one update after another gets them one after another from disk, too."""
    save: Callable[[Model, str], None]
    """Write the model as safetensors."""


def task() -> Task:
    """Return the task of this process."""
    return Task(**json.loads(sys.argv[1]))


def run(peers: Mapping[tuple[str, str], Peer]) -> None:
    """Measure one of the system's ways, by path and rule, and print the result."""
    given = task()
    peer = peers[given.path, given.rule]
    if given.mode == "file":
        report(lambda: peer.save(peer.reduce(_loaded(peer, given.updates), given), given.output))
        return
    models = [peer.load(path) for path in given.updates]
    merged: list[Model] = []
    report(lambda: merged.append(peer.reduce(models, given)))
    peer.save(merged[0], given.output)


def report(work: Callable[[], object]) -> None:
    """Do the work and print its figures as JSON.

    They are seconds, the processor's seconds (of all threads and of processes that have ended), the peak of resident
    memory meanwhile and what was resident before, in bytes.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    found = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": _resident("VmHWM"), "before_bytes": before}
    print(json.dumps(found), flush=True)


def float32(tensor: Any) -> NDArray[np.float32]:
    """Return an array in the model's type: some peers compute in float64."""
    return np.ascontiguousarray(tensor, np.float32)


def columns(models: Sequence[Model]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of each tensor and its values of all updates."""
    for name in models[0]:
        yield name, [model[name] for model in models]


def _loaded(peer: Peer, paths: Sequence[str]) -> Iterator[Model]:
    for path in paths:
        yield peer.load(path)


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))
