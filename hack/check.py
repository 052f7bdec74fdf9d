"""All checks: ``python3 -m hack.check [lint] [unit] [cluster]``, all of them by default.

Sets up what they need first (virtual environment, embedded cluster, images), shows progress and elapsed time, and
ends with a table of what passed. The exit status is 0 only when all passed.
"""

from __future__ import annotations

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


STEPS = (
    Step("lint", "ruff check", _tool("ruff", "check", "--quiet", ".")),
    Step("lint", "ruff format", _tool("ruff", "format", "--check", "--quiet", ".")),
    Step("lint", "mypy", _tool("mypy", "umim", "operator/umim_operator", "hack", "tests")),
    Step("lint", "import-linter", _tool("lint-imports", "--no-logo")),
    # Not --quiet: MkDocs then counts no warnings, and strict means nothing.
    Step("lint", "documentation", ("env", QUIET, *_tool("mkdocs", "build", "--strict"))),
    Step("unit", "tools from source", (sys.executable, "-m", "hack.cluster", "tool", "minio")),
    Step("unit", "helm from source", (sys.executable, "-m", "hack.cluster", "tool", "helm")),
    Step("unit", "unit and contract tests", (PYTHON, "-m", "pytest", "tests/unit", "tests/contract", "tests/golden")),
    Step("cluster", "cluster up", (sys.executable, "-m", "hack.cluster", "up")),
    Step("cluster", "images: build", (sys.executable, "-m", "hack.images", "build")),
    Step("cluster", "images: load", (sys.executable, "-m", "hack.images", "load")),
    Step("cluster", "integration tests", (PYTHON, "-m", "pytest", "tests/integration")),
    Step("cluster", "end-to-end tests", (PYTHON, "-m", "pytest", "tests/e2e")),
)
GROUPS = tuple(dict.fromkeys(step.group for step in STEPS))


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
    groups = arguments or list(GROUPS)
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
