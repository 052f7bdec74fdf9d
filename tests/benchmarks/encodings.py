"""What the encodings of updates cost in quality and save in bytes: ``python -m tests.benchmarks.encodings``.

Arm A4 of the learning benchmark, all its rounds and one seed, once with each encoding; judged by the mean over the
domains of the linear probe at 10 labels a class. One process, one thread. Models that an earlier run left in the work
folder are used again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
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


def main() -> int:
    """Run the arm with each encoding, print a line for each, and write the report."""
    arguments = _arguments()
    logging.getLogger("umim").setLevel(logging.WARNING)
    try:
        packs = load_packs(arguments.data)
    except (UmimError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = arguments.work / f"seed-{arguments.seed}"
    laboratory = Laboratory(packs, arguments.data, folder, arguments.seed, one_thread(), _arms())
    rows: dict[str, dict[str, Any]] = {}
    for name in ENCODINGS:
        started = monotonic()
        rows[name] = _row(laboratory.run(name, PROFILE), LocalStore(folder / "store"))
        print(f"{_shown(name, rows)}; {monotonic() - started:.0f} s", flush=True)
        _write(arguments.out, arguments.seed, rows)
    print(json.dumps({name: _summary(row) for name, row in rows.items()}))
    return 0


def _arms() -> dict[str, Arm]:
    """Return the arm with each encoding."""
    arm = FEDERATED[ARM]
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


def _shown(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    row, full = rows[name], rows["full"]
    return (
        f"{name:<9} mean at 10 labels {row['mean']:.4f} ({row['mean'] - full['mean']:+.4f}), "
        f"{row['bytes_an_update']} bytes an update ({row['bytes_an_update'] / full['bytes_an_update']:.1%})"
    )


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("mean", "bytes_an_update")}


def _write(path: Path, seed: int, rows: Mapping[str, Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "summary": {name: _summary(row) for name, row in rows.items()},
        "seed": seed,
        "arm": ARM,
        "encodings": ENCODINGS,
        "recipe": asdict(FEDERATED[ARM]),
        "rows": rows,
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
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
