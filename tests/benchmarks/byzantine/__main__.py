"""``python -m tests.benchmarks.byzantine``: what lying sites do to each rule, see docs/benchmarks/byzantine.md."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import torch

from tests.benchmarks.byzantine import federation, report
from tests.benchmarks.byzantine.attacks import ATTACKS
from tests.benchmarks.byzantine.experiment import ABSENT, NOBODY, ROUNDS, RULES, run
from tests.benchmarks.learning.runs import processor
from umim.artifacts.manifests import software_versions

ROOT = Path(__file__).resolve().parents[3]
ALPHAS = (0.5, 1.0)
LIARS = (1, 2)
SEEDS = (0, 1, 2)
SOFTWARE = ("umim", "torch", "numpy", "scikit-learn")


def main() -> int:
    """Run everything, in one process on one thread, and write the report."""
    arguments = _arguments()
    logging.getLogger("umim").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    started = process_time()
    records = list(_records(arguments.seeds))
    found = report.result(records, _surroundings(arguments.seeds, process_time() - started))
    arguments.out.mkdir(parents=True, exist_ok=True)
    report.write(found, arguments.out)
    print(json.dumps(found["summary"]))
    return 0


def _records(seeds: int) -> Iterator[dict[str, Any]]:
    for alpha in ALPHAS:
        for seed in SEEDS[:seeds]:
            task = federation.make_task(alpha, seed)
            for liars in LIARS:
                started = process_time()
                for attack in (NOBODY, ABSENT, *ATTACKS):
                    # What is left when the liars are away is the mean of the honest sites: one rule will do.
                    rules = {"fedavg": RULES["fedavg"]} if attack == ABSENT else RULES
                    for record in run(task, seed, attack, liars, rules):
                        yield {"alpha": alpha, "seed": seed, "liars": liars, "attack": attack, **record}
                print(f"alpha {alpha}, seed {seed}, {liars} may lie: {process_time() - started:.0f} s", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.byzantine", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="folder of the report")
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS))
    return parser.parse_args()


def _surroundings(seeds: int, seconds: float) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the numbers."""
    return {
        "alphas": list(ALPHAS),
        "liars": list(LIARS),
        "seeds": list(SEEDS[:seeds]),
        "federation": {
            "data": "scikit-learn digits",
            "sites": federation.SITES,
            "rounds": ROUNDS,
            "local_steps": federation.LOCAL_STEPS,
            "batch": federation.BATCH,
            "learning_rate": federation.LEARNING_RATE,
            "model_values": federation.SIZE,
            "samples": {
                f"alpha {alpha}, seed {seed}": list(federation.make_task(alpha, seed).samples)
                for alpha in ALPHAS
                for seed in SEEDS[:seeds]
            },
        },
        "rules": {name: dict(rule) for name, rule in RULES.items()},
        "software": {**software_versions(SOFTWARE), "python": platform.python_version()},
        "hardware": {"processor": processor().get("model name", platform.processor()), "threads": 1},
        "cpu_seconds": round(seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
