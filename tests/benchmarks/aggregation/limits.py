"""The limits: ``cat`` of the updates, and sha256 of them by hashlib on two threads, each with half of the files."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.aggregation.peers.harness import report, task

THREADS = 2


def main() -> None:
    """Measure one task."""
    given = task()
    halves = [given.updates[first::THREADS] for first in range(THREADS)]
    report((lambda: _cat(given.updates)) if given.path == "cat" else (lambda: _hash(halves)))


def _cat(paths: Sequence[str]) -> None:
    subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)


def _hash(halves: Sequence[Sequence[str]]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_hash_all, halves))


def _hash_all(paths: Sequence[str]) -> None:
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            hashlib.file_digest(file, "sha256")


if __name__ == "__main__":
    main()
