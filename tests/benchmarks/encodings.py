"""What the encodings of updates cost in quality and save in bytes: ``python -m tests.benchmarks.encodings``.

Arm A4 of the learning benchmark, all its rounds and one seed, once with each encoding; judged by the mean over the
domains of the linear probe at 10 labels a class. All encodings start from one model, which is made first. ``--jobs N``
runs N encodings beside each other, each in a process with one thread of the CPU and in a folder of its own, so that the
number of processes changes no result. Models that an earlier run left in the work folder are used again. Each row is
saved as it is done.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from tests.benchmarks.learning.laboratory import Laboratory
from tests.benchmarks.learning.protocol import FEDERATED, PROFILES, Arm
from tests.benchmarks.learning.runs import load_packs, one_thread, processor
from umim.artifacts.files import replace_file
from umim.artifacts.local import LocalStore
from umim.artifacts.manifests import read_model_manifest, read_update_manifest, software_versions
from umim.artifacts.store import ObjectStore
from umim.errors import UmimError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "medical8"
ARM = "A4"
PROFILE = PROFILES["quick"]
ENCODINGS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "delta": {"format": "delta"},
    "bf16": {"format": "bf16"},
    "int8": {"format": "int8"},
    "top-k-20": {"format": "top-k", "density": 0.2},
    "top-k-05": {"format": "top-k", "density": 0.05},
}
"""spec.aggregation.encoding by name."""
SOFTWARE = ("umim", "torch", "timm", "numpy", "scikit-learn")


START = "start"
"""Folder of the model that all encodings start from, beside one folder for each of them."""
Rows = Mapping[str, Mapping[str, Any]]
"""What was found, by name of the encoding."""


def main() -> int:
    """Run the arm with each encoding, print a line for each and a table of all, and write the report."""
    arguments = _arguments()
    try:
        packs = load_packs(arguments.data)
    except (UmimError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    del packs  # each process reads its own
    folder, started = arguments.work / f"seed-{arguments.seed}", monotonic()
    rows: dict[str, dict[str, Any]] = {}
    for name, row in measured(tuple(ENCODINGS), arguments.data, folder, arguments.seed, arguments.jobs):
        rows[name] = row
        print(f"[{monotonic() - started:.0f} s] {name}: mean at 10 labels {row['mean']:.4f}", flush=True)
        _write(arguments.out, arguments.seed, arguments.jobs, rows)
    print(table(rows), flush=True)
    return 0


def measured(
    names: Sequence[str], data: Path, folder: Path, seed: int, jobs: int, arm: Arm = FEDERATED[ARM]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the row of each encoding as it is done, with ``jobs`` processes."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_start, data, folder / START, seed, arm).result()
        futures = {pool.submit(_measure, name, data, folder, seed, arm): name for name in names}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _start(data: Path, folder: Path, seed: int, arm: Arm) -> None:
    """Make the model that all encodings start from, unless it is there."""
    _laboratory(data, folder, seed, arm).start()


def _measure(name: str, data: Path, folder: Path, seed: int, arm: Arm) -> dict[str, Any]:
    """Return the row of an encoding, made in a folder of its own: stores and residuals bear one process at a time."""
    own = folder / name
    if not (own / "store").exists():
        copied = own / "store~"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(folder / START / "store", copied)
        copied.rename(own / "store")
    return _row(_laboratory(data, own, seed, arm).run(name, PROFILE), LocalStore(own / "store"))


def _laboratory(data: Path, folder: Path, seed: int, arm: Arm) -> Laboratory:
    logging.getLogger("umim").setLevel(logging.WARNING)  # in this worker process only
    return Laboratory(load_packs(data), data, folder, seed, one_thread(), _arms(arm))


def _arms(arm: Arm) -> dict[str, Arm]:
    """Return the arm with each encoding."""
    return {
        name: replace(arm, aggregation={**arm.aggregation, "encoding": dict(encoding)})
        for name, encoding in ENCODINGS.items()
    }


def _row(record: Mapping[str, Any], store: ObjectStore) -> dict[str, Any]:
    """Return the scores of a run and the sizes of its updates."""
    digests = record["details"]["digests"]
    sizes = [size for digest in digests for size in _sizes(store, digest)]
    return {
        "mean": _mean(record["scores"], "linear@10"),
        "bytes_an_update": round(float(np.mean(sizes))),
        "scores": {domain: found["linear@10"] for domain, found in record["scores"].items()},
        "curve": [float(np.mean(list(one.values()))) for one in record["curve"]],
        "seconds": record["seconds"],
        "digests": digests,
    }


def _mean(scores: Mapping[str, Mapping[str, float]], measure: str) -> float:
    return float(np.mean([found[measure] for found in scores.values()]))


def _sizes(store: ObjectStore, digest: str) -> list[int]:
    """Return the bytes of the updates in a model."""
    model = read_model_manifest(store, digest)
    updates = [read_update_manifest(store, model.round_uid, one.site, 1) for one in model.contributors]
    return [update.file.size_bytes for update in updates if update is not None]


def table(rows: Rows) -> str:
    """Return a line for each encoding in the order of ``ENCODINGS``; differences are to full, once that is there."""
    full = rows.get("full")
    lines = [f"{'encoding':<10}{'mean':>8}{'to full':>9}{'bytes an update':>17}{'of full':>9}{'training':>11}"]
    for name in sorted(rows, key=list(ENCODINGS).index):
        row = rows[name]
        change = "" if full is None else f"{row['mean'] - full['mean']:+.4f}"
        share = "" if full is None else f"{row['bytes_an_update'] / full['bytes_an_update']:.1%}"
        lines.append(
            f"{name:<10}{row['mean']:>8.4f}{change:>9}{row['bytes_an_update']:>17}{share:>9}"
            f"{row['seconds']['training']:>9.0f} s"
        )
    return "\n".join(lines)


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("mean", "bytes_an_update")}


def _write(path: Path, seed: int, jobs: int, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "summary": {name: _summary(rows[name]) for name in ENCODINGS if name in rows},
        "seed": seed,
        "arm": ARM,
        "encodings": ENCODINGS,
        "recipe": asdict(FEDERATED[ARM]),
        "rows": {name: rows[name] for name in ENCODINGS if name in rows},
        "processes": jobs,
        "software": software_versions(SOFTWARE),
        "processor": processor().get("model name", ""),
    }
    with replace_file(path) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encodings", description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with <domain>.npz and server_pool.npz")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/umim/benchmarks/encodings")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/encodings.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="encodings that run beside each other")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
