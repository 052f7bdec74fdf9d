"""``python -m tests.benchmarks.aggregation``: the aggregation against peers, see docs/benchmarks/aggregation.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.aggregation import report
from tests.benchmarks.aggregation.measure import ROOT, Laboratory, load_records, run_pass
from tests.benchmarks.aggregation.plan import PROFILES, Profile
from tests.benchmarks.aggregation.venvs import PACKAGES, Environment, make_environment
from tests.benchmarks.learning.runs import processor
from umim.artifacts.manifests import software_versions

SOFTWARE = ("umim", "numpy", "torch", "timm", "safetensors")
CODE = ("tests/benchmarks/aggregation", "umim/aggregation", "umim/artifacts")
"""What a result depends on: other code, other results."""
TEXT_ONLY = frozenset({"__main__.py", "report.py", "plots.py"})


def main() -> int:
    """Measure what is missing and write the report."""
    arguments = _arguments()
    profile = PROFILES["quick" if arguments.quick else "full"]
    environments = {peer: make_environment(peer, arguments.work / "venvs") for peer in arguments.peers}
    versions = software_versions(SOFTWARE)
    records = arguments.work / "records" / _digest(versions, environments) / profile.name
    records.mkdir(parents=True, exist_ok=True)
    surroundings = {
        "profile": profile.name,
        "software": {**versions, "python": platform.python_version()},
        "peers": {name: {"versions": one.versions, "problem": one.problem} for name, one in environments.items()},
        "hardware": {"processor": processor().get("model name", platform.processor()), "cores": os.cpu_count()},
    }
    work = arguments.work / "work" / profile.name
    laboratory = Laboratory(arguments.work / "inputs", work, records, environments)
    print(f"aggregation benchmark, {profile.name}; results in {records}", flush=True)
    for repeat in () if arguments.report_only else range(profile.repeats):
        run_pass(profile, laboratory, repeat)
        _report(profile, records, surroundings, arguments.out)
    shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(_report(profile, records, surroundings, arguments.out)["summary"]))
    return 0


def _report(profile: Profile, records: Path, surroundings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write the report of all measurements so far and return it."""
    found = report.result(profile, load_records(records), surroundings)
    out.mkdir(parents=True, exist_ok=True)
    report.write(found, out)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.aggregation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small network, once each: tests the benchmark itself")
    parser.add_argument("--peers", nargs="*", choices=sorted(PACKAGES), default=sorted(PACKAGES))
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/umim/benchmarks/aggregation")
    parser.add_argument("--out", type=Path, default=ROOT / "build/benchmarks", help="folder of the report")
    parser.add_argument("--report-only", action="store_true", help="measure nothing; report what there is")
    return parser.parse_args()


def _digest(versions: Mapping[str, str], environments: Mapping[str, Environment]) -> str:
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name not in TEXT_ONLY:
                digest.update(path.read_bytes())
    parts: list[Any] = [dict(versions), {name: dict(one.versions) for name, one in environments.items()}]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
