"""The benchmark of encodings gives the same rows with one process and with several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.encodings import ARM, START, measured, table
from tests.benchmarks.learning.protocol import FEDERATED

SIDE = 64
LOSSY = ("int8", "top-k-05")
"""Both keep residuals: of one shared folder each would throw away the other's."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two domains of noise with two classes, and a pool."""
    folder = tmp_path / "data"
    folder.mkdir()
    for seed, domain in enumerate(("first", "second")):
        random = np.random.default_rng(seed)
        labels = np.arange(28) % 2
        images = random.integers(0, 100, (28, SIDE, SIDE), dtype=np.uint8)
        images[labels == 1] += 60
        sides = {"train": slice(0, 20), "test": slice(20, 28)}
        arrays: dict[str, Any] = {f"{side}_images": images[part] for side, part in sides.items()}
        arrays |= {f"{side}_labels": labels[part] for side, part in sides.items()}
        np.savez(folder / f"{domain}.npz", **arrays)
    np.savez(folder / "server_pool.npz", train_images=images[:8])
    return folder


def rows(data: Path, folder: Path, jobs: int) -> dict[str, Any]:
    arm = FEDERATED[ARM]
    short = replace(arm, distillation={**(arm.distillation or {}), "images": 64})
    found = dict(measured(LOSSY, data, folder, 0, jobs, short))
    for row in found.values():
        del row["seconds"]
    return found


def test_two_processes_give_the_rows_of_one(data: Path, tmp_path: Path) -> None:
    one, two = rows(data, tmp_path / "one", jobs=1), rows(data, tmp_path / "two", jobs=2)
    assert one == two
    assert one["int8"]["digests"] != one["top-k-05"]["digests"]
    stores = {name: tmp_path / "two" / name / "store" for name in (START, *LOSSY)}
    (start,) = (path.name for path in (stores[START] / "models" / "sha256").iterdir())
    assert all((stores[name] / "models" / "sha256" / start).is_dir() for name in LOSSY)


def test_the_table_has_the_order_of_the_encodings_and_differences_to_full() -> None:
    row = {"mean": 0.75, "bytes_an_update": 100, "seconds": {"training": 3.4}}
    small = {**row, "mean": 0.745, "bytes_an_update": 26}
    lines = table({"int8": small, "full": row}).splitlines()
    assert [line.split()[0] for line in lines] == ["encoding", "full", "int8"]
    assert lines[2].split() == ["int8", "0.7450", "-0.0050", "26", "26.0%", "3", "s"]
    assert table({"int8": small}).splitlines()[1].split() == ["int8", "0.7450", "26", "3", "s"]
