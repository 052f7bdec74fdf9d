"""docs/reliability: the table of faults, for people and for programs. Written from a run, never by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hack.testenv.platform import ROOT
from tests.e2e.chaos.rows import Row, read

FOLDER = ROOT / "docs/reliability"

HEAD = """\
# Faults survived

What a fault does to a round on a real cluster: `make chaos` lets each of them happen, on the embedded Kubernetes, with
the real operator, MinIO and Redis, and real trainings in containers. It writes this page; `chaos.json` beside it has
the same as data. Every round has two hospitals and a small model. `make chaos CASE=name AGAIN=1` repeats one case.

How to read the table:

- **what happened**: where the round ended, and what it took. `kubectl describe fround` alone showed each reason with a
  sentence that says what to do; [troubleshooting](../troubleshooting.md) has them, too.
- **recovery** of a round that completed: how much later it was complete than an undisturbed twin, less the time for
  which a hand kept up the fault (API server kept away, quota kept exhausted). 0: no later. Of a round that must fail:
  from the fault to the condition that says why. Of a Job that cannot start: from its launch to the reason on the site,
  which must be there within 30 s.
- **lost**: nothing, if every hospital that was reachable has delivered, each committed update is still in the store
  with the digest that it had, updates and model are bit for bit those of the undisturbed twin, the model is published
  exactly once, no Job was made twice and no credentials are left. Of a round that must fail: nothing, if the committed
  updates are still there.

The times are of runs on machines with two cores, with a resolution of a second. Most of a recovery is a container
that starts again and imports its libraries.

| fault | phase | what happened | recovery | lost |
| --- | --- | --- | ---: | --- |
"""


def write(rows: Sequence[Row], missing: Sequence[str], folder: Path = FOLDER) -> None:
    """Write page and data. ``missing``: cases that have not passed, which the page must name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps([as_data(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    (folder / "chaos.md").write_text(markdown(rows, missing))


def written(folder: Path = FOLDER) -> dict[str, list[Row]]:
    """Return the rows of the page as it stands, by case."""
    path = folder / "chaos.json"
    found: dict[str, list[Row]] = {}
    for row in read(path) if path.exists() else []:
        found.setdefault(row.case, []).append(row)
    return found


def as_data(row: Row) -> dict[str, object]:
    """Return a row as programs read it."""
    return {
        "case": row.case,
        "fault": row.fault,
        "phase": row.phase,
        "outcome": row.outcome,
        "reasons": list(row.reasons),
        "recovery_s": row.recovery_s,
        "lost": row.lost,
    }


def markdown(rows: Sequence[Row], missing: Sequence[str]) -> str:
    """Return the page."""
    table = "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)
    names = ", ".join(f"`{name}`" for name in missing)
    return HEAD + table + (f"\nNot measured yet, so nothing is said about them: {names}.\n" if missing else "")


def _cells(row: Row) -> tuple[str, ...]:
    what = f"{_cell(row.outcome)}{_reasons(row)}"
    return _cell(row.fault), row.phase, what, f"{row.recovery_s:.0f} s", _cell(row.lost)


def _reasons(row: Row) -> str:
    unsaid = [reason for reason in row.reasons if reason not in row.outcome]
    return f" ({', '.join(f'`{reason}`' for reason in unsaid)})" if unsaid else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
