"""``python -m tests.benchmarks.learning``: the learning benchmark, see docs/benchmarks/learning.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from tests.benchmarks.learning import report
from tests.benchmarks.learning.laboratory import Laboratory
from tests.benchmarks.learning.protocol import LEFT_OUT, PROFILES, SERVER_FILE, Profile, recipe
from umim.artifacts.files import replace_file
from umim.artifacts.manifests import software_versions
from umim.errors import UmimError
from umim.evaluation.pack import Pack, datasets, load_pack
from umim.training.runtime import Runtime, start_runtime

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "medical8"
SOFTWARE = ("umim", "torch", "timm", "numpy", "scikit-learn", "scipy")
HALF_FLAG = "avx512_bf16"


def main() -> int:
    """Run what is missing and write the report."""
    arguments = _arguments()
    profile = PROFILES[arguments.profile]
    try:
        packs = _packs(arguments.data)
    except (UmimError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    work = arguments.work / f"{arguments.split}-{_digest(packs)}"
    data = arguments.data if arguments.split == "test" else _carved(arguments.data, packs, work / "data")
    records = work / "records" / profile.name
    records.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in _tasks(profile, sorted(packs)) if not _record(records, *task).exists()]
    print(f"learning benchmark, {profile.name}: {len(tasks)} runs to do; results in {work}", flush=True)
    _run_all(tasks, profile, data, work, arguments.jobs)
    found = [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]
    result = report.result(profile, found, _surroundings(arguments, packs, profile))
    arguments.out.mkdir(parents=True, exist_ok=True)
    report.write(result, arguments.out)
    print(json.dumps(result["summary"]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.learning", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with <domain>.npz and server_pool.npz")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/umim/benchmarks/learning")
    parser.add_argument("--out", type=Path, default=ROOT / "build/benchmarks", help="folder of the report")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="validation: for tuning, test parts stay unseen"
    )
    return parser.parse_args()


def _packs(folder: Path) -> dict[str, Pack]:
    files = sorted(path for path in folder.glob("*.npz") if path.name != SERVER_FILE)
    if not files or not (folder / SERVER_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} needs {SERVER_FILE} with unlabelled images and one npz file a domain: give the folder with "
            "DATA=..., such as one of MedMNIST files"
        )
    return {path.stem: load_pack(path) for path in files}


def _carved(source: Path, packs: dict[str, Pack], folder: Path) -> Path:
    """Return a folder of packs whose test part is a validation part of the training part."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pack in packs.items():
        path = folder / f"{name}.npz"
        if path.exists():
            continue
        arrays: dict[str, Any] = {}
        for side, found in zip(
            ("train", "test"), datasets(pack, pack.train.images.shape[1], "validation"), strict=True
        ):
            assert found.targets is not None  # a pack has targets
            arrays[f"{side}_images"] = np.moveaxis(found.images, 1, -1)
            arrays[f"{side}_{'masks' if pack.task == 'segmentation' else 'labels'}"] = found.targets
            arrays[f"{side}_groups"] = found.patients
        with replace_file(path) as file:
            np.savez(file, **arrays)
    link = folder / SERVER_FILE
    if not link.exists():
        link.symlink_to(source / SERVER_FILE)
    return folder


def _tasks(profile: Profile, domains: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield (seed, arm): first all arms of all seeds, then those with a domain left out."""
    yield from ((seed, arm) for seed in profile.seeds for arm in profile.arms)
    yield from ((seed, LEFT_OUT + domain) for seed in profile.left_out_seeds for domain in domains)


def _record(records: Path, seed: int, arm: str) -> Path:
    return records / f"seed-{seed}-{arm}.json"


def _run_all(tasks: Sequence[tuple[int, str]], profile: Profile, data: Path, work: Path, jobs: int) -> None:
    """Run a seed's tasks one after another in one process, since they share a store; seeds run beside each other."""
    seeds = sorted({seed for seed, _ in tasks})
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_run_seed, seed, [arm for number, arm in tasks if number == seed], profile, data, work)
            for seed in seeds
        ]
        for future in as_completed(futures):
            future.result()


def _run_seed(seed: int, arms: Sequence[str], profile: Profile, data: Path, work: Path) -> None:
    started = monotonic()
    laboratory = Laboratory(_packs(data), data, work / f"seed-{seed}", seed, _runtime())
    for number, arm in enumerate(arms, start=1):
        record = laboratory.run(arm, profile)
        with replace_file(_record(work / "records" / profile.name, seed, arm)) as file:
            file.write(json.dumps(record, indent=1).encode())
        elapsed = monotonic() - started
        left = _shown(elapsed / number * (len(arms) - number))
        mean = np.mean([found["linear@10"] for found in record["scores"].values()])
        print(
            f"[{_shown(elapsed)}] seed {seed}: {arm} ({number}/{len(arms)}), mean at 10 labels {mean:.3f}; "
            f"about {left} left for this seed",
            flush=True,
        )


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _runtime() -> Runtime:
    """Return one thread of the CPU, in bfloat16 where the processor computes with it."""
    runtime = start_runtime(1)
    return Runtime(runtime.device, torch.bfloat16) if HALF_FLAG in _cpu().get("flags", "").split() else runtime


def _cpu() -> dict[str, str]:
    """Return what the kernel says of the first processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n", maxsplit=1)[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _surroundings(arguments: argparse.Namespace, packs: dict[str, Pack], profile: Profile) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the numbers."""
    return {
        "profile": profile.name,
        "split": arguments.split,
        "recipe": recipe(),
        "evaluation": {
            "linear": list(profile.linear),
            "finetuning": list(profile.finetuning),
            "draws": profile.draws,
        },
        "packs": {name: pack.digest for name, pack in packs.items()},
        "software": {**software_versions(SOFTWARE), "python": platform.python_version()},
        "hardware": {
            "processor": _cpu().get("model name", platform.processor()),
            "bfloat16": _runtime().half is not None,
            "processes": arguments.jobs,
            "threads_a_process": 1,
        },
    }


def _digest(packs: dict[str, Pack]) -> str:
    """Return a short digest of all that decides the models: those of another recipe are not mixed in."""
    parts = {"recipe": recipe(), "packs": {name: pack.digest for name, pack in packs.items()}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
