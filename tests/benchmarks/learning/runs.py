"""Running the arms of several seeds beside each other, one process a seed."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from tests.benchmarks.learning.laboratory import Laboratory
from tests.benchmarks.learning.protocol import SERVER_FILE, Profile
from umim.artifacts.files import replace_file
from umim.evaluation.pack import Pack, load_pack
from umim.training.runtime import Runtime, start_runtime

HALF_FLAG = "avx512_bf16"


def load_packs(folder: Path) -> dict[str, Pack]:
    """Return the packs of all domains by name. Raises FileNotFoundError, and DataError for a file that is none."""
    files = sorted(path for path in folder.glob("*.npz") if path.name != SERVER_FILE)
    if not files or not (folder / SERVER_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} needs {SERVER_FILE} with unlabelled images and one npz file a domain: give the folder with "
            "DATA=..., such as one of MedMNIST files"
        )
    return {path.stem: load_pack(path) for path in files}


def record_path(records: Path, seed: int, arm: str) -> Path:
    """Return where the record of a run lies."""
    return records / f"seed-{seed}-{arm}.json"


def run_all(
    tasks: Sequence[tuple[int, str]], profile: Profile, data: Path, work: Path, records: Path, jobs: int
) -> None:
    """Run a seed's tasks one after another in one process, since they share a store; seeds run beside each other."""
    seeds = sorted({seed for seed, _ in tasks})
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_run_seed, seed, [arm for number, arm in tasks if number == seed], profile, data, work, records)
            for seed in seeds
        ]
        for future in as_completed(futures):
            future.result()


def _run_seed(seed: int, arms: Sequence[str], profile: Profile, data: Path, work: Path, records: Path) -> None:
    logging.getLogger("umim").setLevel(logging.WARNING)  # in this worker process only
    started = monotonic()
    laboratory = Laboratory(load_packs(data), data, work / f"seed-{seed}", seed, one_thread())
    for number, arm in enumerate(arms, start=1):
        record = laboratory.run(arm, profile)
        with replace_file(record_path(records, seed, arm)) as file:
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


def one_thread() -> Runtime:
    """Return one thread of the CPU, in bfloat16 where the processor computes with it."""
    start_runtime(1)
    half = torch.bfloat16 if HALF_FLAG in processor().get("flags", "").split() else None
    return Runtime(torch.device("cpu"), half)  # also where there is a GPU


def processor() -> dict[str, str]:
    """Return what the kernel says of the first processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n", maxsplit=1)[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
