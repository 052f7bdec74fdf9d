"""Runs measurements, each in a process of its own, and keeps every result at once: what was stopped goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.aggregation.inputs import Inputs, make_inputs
from tests.benchmarks.aggregation.peers.harness import Task
from tests.benchmarks.aggregation.plan import LIMIT, LONG_SECONDS, MODULES, OURS, Contender, Group, Profile
from tests.benchmarks.aggregation.reference import largest_error, write_reference
from tests.benchmarks.aggregation.venvs import Environment
from umim.artifacts.files import replace_file

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "tests.benchmarks.aggregation"
TIMEOUT_SECONDS = 900.0
SPARE_BYTES = 1 << 30
"""Memory that must be left to others."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Laboratory:
    """Where things are."""

    inputs: Path
    """Folder of the updates."""
    work: Path
    """Folder of the merged models and the reference, which are removed after use."""
    records: Path
    """Folder of the results."""
    environments: Mapping[str, Environment]
    """The peers' environments."""


def load_records(folder: Path) -> list[Record]:
    """Return all results so far."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def run_pass(profile: Profile, laboratory: Laboratory, repeat: int) -> None:
    """Measure what is missing once. The contenders of a group follow each other, so that all meet the same machine."""
    systems = [OURS, LIMIT] + [name for name, one in laboratory.environments.items() if not one.problem]
    for group in profile.all_groups():
        for contender in group.contenders(systems):
            if _is_due(group, contender, repeat, laboratory):
                _measure(group, contender, repeat, laboratory, profile)


def _is_due(group: Group, contender: Contender, repeat: int, laboratory: Laboratory) -> bool:
    done = [_kept(laboratory.records, group, contender, number) for number in range(repeat + 1)]
    if done[repeat] is not None and "problem" not in (done[repeat] or {}):
        return False
    first = done[0]
    return repeat == 0 or (first is not None and first.get("seconds", LONG_SECONDS) < LONG_SECONDS)


def _measure(group: Group, contender: Contender, repeat: int, laboratory: Laboratory, profile: Profile) -> None:
    distinct = profile.distinct if group.architecture == profile.main else group.count
    links = laboratory.work / "links"
    inputs = make_inputs(group.architecture, distinct, laboratory.inputs).first(group.count, links)
    output = laboratory.work / "output" / "model.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    task = Task(
        path=contender.path,
        rule=group.rule,
        mode=group.mode,
        updates=[str(path) for path in inputs.updates],
        samples=list(inputs.samples),
        byzantine=group.byzantine,
        parent=str(inputs.parent),
        output=str(output),
    )
    record: Record = {**asdict(group), "system": contender.system, "path": contender.path, "repeat": repeat}
    # The files must stay in the page cache, which counts as available.
    needed = contender.copies * inputs.bytes_of_updates + inputs.bytes_on_disk + SPARE_BYTES
    if needed > _available_bytes():
        record["problem"] = f"needs {needed / 1e9:.1f} GB of memory, {_available_bytes() / 1e9:.1f} GB are free"
    else:
        _warm(inputs)
        record |= _run(contender, task, laboratory)
    if "problem" not in record and contender.system != LIMIT and repeat == 0 and not group.growth:
        record["largest_error"] = _error(group, inputs, output, laboratory)
    output.unlink(missing_ok=True)
    shown = record.get("problem") or f"{record['seconds']:.2f} s, {record['peak_bytes'] / 1e9:.2f} GB"
    print(f"{group.key} {contender.name} [{repeat + 1}]: {shown}", flush=True)
    with replace_file(_path(laboratory.records, group, contender, repeat)) as file:
        file.write(json.dumps(record).encode())


def _run(contender: Contender, task: Task, laboratory: Laboratory) -> Record:
    environment = laboratory.environments.get(contender.system)
    python = sys.executable if environment is None else str(environment.python)
    # Everyone may use both cores as it likes.
    variables = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [python, "-m", f"{PACKAGE}.{MODULES[contender.system]}", json.dumps(asdict(task))]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"not done after {TIMEOUT_SECONDS:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"problem": lines[-1] if lines else f"ended with {done.returncode}"}
    found: Record = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _error(group: Group, inputs: Inputs, output: Path, laboratory: Laboratory) -> float:
    """Compare with the reference, which is kept until another one is needed."""
    folder = laboratory.work / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{group.architecture}-{group.count}-{group.rule}.f64"
    if not path.exists():
        for other in folder.iterdir():
            other.unlink()
        print(f"reference of {path.stem}", flush=True)
        partial = path.with_suffix(".partial")
        write_reference(group.rule, inputs, group.byzantine, partial)
        partial.replace(path)
    return largest_error(output, path)


def _warm(inputs: Inputs) -> None:
    """Bring all files into the page cache."""
    buffer = bytearray(1 << 20)
    for path in (inputs.parent, *inputs.updates):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _kept(records: Path, group: Group, contender: Contender, repeat: int) -> Record | None:
    path = _path(records, group, contender, repeat)
    return json.loads(path.read_text()) if path.exists() else None


def _path(records: Path, group: Group, contender: Contender, repeat: int) -> Path:
    return records / f"{group.key}-{contender.system}-{contender.path}-{repeat}.json"


def _available_bytes() -> int:
    lines: Sequence[str] = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
