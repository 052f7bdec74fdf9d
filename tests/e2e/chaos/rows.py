"""What a fault did: one row of the table, and the files in which finished cases are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hack.testenv.platform import ROOT

FOLDER = ROOT / "build/chaos"
NOTHING = "nothing"


@dataclass(frozen=True)
class Row:
    """One fault in one phase."""

    case: str
    fault: str
    phase: str
    outcome: str
    recovery_s: float
    lost: str
    """``nothing``, or what is missing or differs."""
    reasons: tuple[str, ...] = ()
    """Reasons that ``kubectl describe fround`` showed for it."""


def assert_nothing_lost(rows: Sequence[Row]) -> None:
    """Fail unless all rounds of a case are complete and whole."""
    assert rows
    assert {row.lost for row in rows} == {NOTHING}
    assert all(row.outcome.startswith("Complete") for row in rows)


def save(case: str, rows: Iterable[Row], folder: Path = FOLDER) -> None:
    """Keep the rows of a finished case."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    part.replace(path)


def load(case: str, folder: Path = FOLDER) -> list[Row] | None:
    """Return the rows of a case, or None where it has not finished."""
    path = folder / f"{case}.json"
    if not path.exists():
        return None
    return read(path)


def read(path: Path) -> list[Row]:
    """Return the rows of a file."""
    return [Row(**{**item, "reasons": tuple(item["reasons"])}) for item in json.loads(path.read_text())]


def failure(case: str, folder: Path = FOLDER) -> Path:
    """Return where it is kept why a case has not passed."""
    return folder / f"{case}.failed"
