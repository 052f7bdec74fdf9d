"""All checks: ``python3 -m hack.check [lint] [unit] [cluster] [kueue]``, all but kueue by default.

Sets up what they need first (virtual environment, embedded cluster, images), shows progress and elapsed time, and
ends with a table of what passed. The exit status is 0 only when all passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from hack import venv
from hack.cluster.progress import ClusterError, Progress, clock

PYTHON = str(venv.VENV / "bin/python")
QUIET = "NO_MKDOCS_2_WARNING=1"
"""Keeps mkdocs-material from printing what it thinks of MkDocs 2, which is not used here."""


@dataclass(frozen=True)
class Step:
    """One command of a group of checks."""

    group: str
    title: str
    command: tuple[str, ...]


def _tool(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(venv.VENV / "bin" / name), *arguments)


def _pytest(*arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-m", "pytest", *arguments)


SEED = "PYTHONHASHSEED=0"
"""Lets the processes of pytest-xdist collect the same tests in one order."""
FOLDERS = ("tests/contract", "tests/golden", "tests/unit")
PROCESSES = (os.cpu_count() or 1) + 1
IN_ORDER = ("--dist=loadfile", "--no-loadscope-reorder")
"""A file is one process's: it has what its tests share."""
CLUSTER = ("tests/e2e", "tests/integration")
STEPS = (
    Step("lint", "ruff check", _tool("ruff", "check", "--quiet", ".")),
    Step("lint", "ruff format", _tool("ruff", "format", "--check", "--quiet", ".")),
    Step("lint", "mypy", _tool("mypy", "umim", "operator/umim_operator", "hack", "tests")),
    Step("lint", "import-linter", _tool("lint-imports", "--no-logo")),
    # Not --quiet: MkDocs then counts no warnings, and strict means nothing.
    Step("lint", "documentation", ("env", QUIET, *_tool("mkdocs", "build", "--strict"))),
    Step("unit", "tools from source", (sys.executable, "-m", "hack.cluster", "tool", "minio")),
    Step("unit", "helm from source", (sys.executable, "-m", "hack.cluster", "tool", "helm")),
    Step("unit", "telemetry collector from source", (sys.executable, "-m", "hack.cluster", "tool", "otelcol")),
    Step("unit", "Jaeger from source", (sys.executable, "-m", "hack.cluster", "tool", "jaeger")),
    Step("unit", "promtool from Debian", (sys.executable, "-m", "hack.promtool")),
    Step("unit", "browser from Debian", (sys.executable, "-m", "hack.browser")),
    # Each process has its own MinIO and Redis. One more than there are cores, since some tests wait; and the folders in
    # their order, so that no long test is left for the end.
    Step(
        "unit",
        "unit and contract tests",
        ("env", SEED, "OMP_NUM_THREADS=1", *_pytest(*FOLDERS, f"--numprocesses={PROCESSES}", *IN_ORDER)),
    ),
    Step("cluster", "cluster up", (sys.executable, "-m", "hack.cluster", "up")),
    Step("cluster", "images: build", (sys.executable, "-m", "hack.images", "build")),
    Step("cluster", "images: load", (sys.executable, "-m", "hack.images", "load")),
    # Two at a time: one after the other they would leave the processors idle for more than a third of the time.
    Step(
        "cluster",
        "integration and end-to-end tests",
        ("env", SEED, *_pytest(*CLUSTER, "-m", "not alone", "--numprocesses=2", *IN_ORDER)),
    ),
    Step("cluster", "end-to-end tests that disturb others", _pytest(*CLUSTER, "-m", "alone")),
    Step("kueue", "cluster up", (sys.executable, "-m", "hack.cluster", "up")),
    Step("kueue", "kueue from source", (sys.executable, "-m", "hack.cluster", "tool", "kueue")),
    Step("kueue", "images: build", (sys.executable, "-m", "hack.images", "build")),
    Step("kueue", "images: load", (sys.executable, "-m", "hack.images", "load")),
    Step("kueue", "tests with Kueue", _pytest("tests/kueue")),
)
GROUPS = tuple(dict.fromkeys(step.group for step in STEPS))
USUAL = ("lint", "unit", "cluster")
"""Not kueue: its program alone costs 340 s of processor time where no cache has it."""


def run(groups: list[str], progress: Progress) -> list[tuple[Step, int, float]]:
    """Run the steps of the groups one after the other. A group ends with its first step that fails."""
    results: list[tuple[Step, int, float]] = []
    failed: set[str] = set()
    chosen = [step for step in STEPS if step.group in groups]
    for number, step in enumerate(chosen, start=1):
        if step.group in failed and step.group != "lint":
            results.append((step, -1, 0.0))
            continue
        progress.line(f"[{number}/{len(chosen)}] {step.title}")
        begin = time.monotonic()
        code = subprocess.run(step.command, cwd=venv.ROOT, check=False).returncode
        results.append((step, code, time.monotonic() - begin))
        if code:
            failed.add(step.group)
    return results


def table(results: list[tuple[Step, int, float]]) -> str:
    """Return what passed and what did not, a line a step."""
    words = {0: "passed", -1: "not run"}
    return "\n".join(f"  {words.get(code, 'FAILED'):8} {clock(took)}  {step.title}" for step, code, took in results)


def main(arguments: list[str]) -> int:
    """Set up, run, report."""
    groups = arguments or list(USUAL)
    if unknown := sorted(set(groups) - set(GROUPS)):
        print(f"error: no such checks: {', '.join(unknown)}. There are: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    progress = Progress()
    try:
        venv.install("dev", progress)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = run(groups, progress)
    bad = [step.title for step, code, _ in results if code]
    print(f"\nChecks, after {clock(progress.elapsed)}:\n{table(results)}", flush=True)
    if bad:
        print(f"error: not passed: {', '.join(bad)}. The output above says why.", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
