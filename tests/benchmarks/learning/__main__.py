"""``python -m tests.benchmarks.learning``: the learning benchmark, see docs/benchmarks/learning.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.learning import report
from tests.benchmarks.learning.protocol import CORE, LEFT_OUT, PROFILES, SERVER_FILE, Profile, recipe
from tests.benchmarks.learning.runs import load_packs, one_thread, processor, record_path, run_all
from umim.artifacts.files import replace_file
from umim.artifacts.manifests import software_versions
from umim.errors import UmimError
from umim.evaluation.pack import Pack, datasets

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "medical8"
SOFTWARE = ("umim", "torch", "timm", "numpy", "scikit-learn", "scipy")


def main() -> int:
    """Run what is missing and write the report."""
    arguments = _arguments()
    profile = PROFILES[arguments.profile]
    try:
        packs = load_packs(arguments.data)
    except (UmimError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Models are found again by what they are made of; records only by the whole recipe.
    work = arguments.work / f"{arguments.split}-{_digest({name: pack.digest for name, pack in packs.items()})}"
    data = arguments.data if arguments.split == "test" else _carved(arguments.data, packs, work / "data")
    records = work / "records" / _digest(recipe()) / profile.name
    records.mkdir(parents=True, exist_ok=True)
    surroundings = _surroundings(arguments, packs, profile)
    surroundings["hardware"]["processors"] = _adopt(arguments.out / "learning.json", surroundings, records)
    phases = [
        [task for task in phase if not record_path(records, *task).exists()]
        for phase in _phases(profile, sorted(packs))
    ]
    print(f"learning benchmark, {profile.name}: {sum(map(len, phases))} runs to do; results in {work}", flush=True)
    for tasks in [] if arguments.report_only else phases:
        run_all(tasks, profile, data, work, records, arguments.jobs)
        _report(profile, records, surroundings, arguments.out)
    print(json.dumps(_report(profile, records, surroundings, arguments.out)["summary"]))
    return 0


def _adopt(path: Path, surroundings: dict[str, Any], records: Path) -> list[str]:
    """Take over the runs of an earlier report of the same recipe on the same data with the same software.

    Returns the processors of these runs and of this one.
    """
    here = str(processor().get("model name", platform.processor()))
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if any(earlier.get(key) != surroundings[key] for key in ("split", "recipe", "evaluation", "packs", "software")):
        return [here]
    for record in earlier["records"]:
        place = record_path(records, record["seed"], record["arm"])
        if not place.exists():
            with replace_file(place) as file:
                file.write(json.dumps(record, indent=1).encode())
    return sorted({here, *earlier["hardware"]["processors"]})


def _report(profile: Profile, records: Path, surroundings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the report of all runs so far and return it."""
    found = [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]
    result = report.result(profile, found, surroundings)
    out.mkdir(parents=True, exist_ok=True)
    report.write(result, out)
    return result


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
    parser.add_argument("--report-only", action="store_true", help="run nothing; report what there is")
    return parser.parse_args()


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


def _phases(profile: Profile, domains: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Return (seed, arm) of what is compared first, then with a domain left out, then ablations and references."""
    core = [arm for arm in profile.arms if arm in CORE]
    rest = [arm for arm in profile.arms if arm not in CORE]
    return [
        [(seed, arm) for seed in profile.seeds for arm in core],
        [(seed, LEFT_OUT + domain) for seed in profile.left_out_seeds for domain in domains],
        [(seed, arm) for seed in profile.seeds for arm in rest],
    ]


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
            "bfloat16": one_thread().half is not None,
            "processes": arguments.jobs,
            "threads_a_process": 1,
        },
    }


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
