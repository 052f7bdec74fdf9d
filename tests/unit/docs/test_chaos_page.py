"""docs/reliability: the table is complete, generated, and lists reasons that are explained."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.e2e.chaos import page
from tests.e2e.chaos.cases import CASES
from tests.e2e.chaos.rows import NOTHING, Row, load, save
from tests.unit.docs.pages import DOCS

DATA = json.loads((DOCS / "reliability/chaos.json").read_text())
ROWS = [row for rows in page.written().values() for row in rows]


MISSING = [name for name in CASES if name not in {row.case for row in ROWS}]


def test_the_table_has_no_case_that_does_not_exist() -> None:
    assert {row.case for row in ROWS} <= set(CASES)


def test_every_row_has_what_programs_look_for() -> None:
    for item in DATA:
        assert item.keys() >= {"fault", "phase", "outcome", "recovery_s", "lost"}
        assert isinstance(item["recovery_s"], (int, float))
        assert all(item[key] for key in ("fault", "phase", "outcome"))


def test_nothing_was_lost() -> None:
    assert {row.lost for row in ROWS} == {NOTHING}


def test_every_reason_of_the_table_has_a_heading_or_a_row_in_troubleshooting() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    explained = set(re.findall(r"^### `(\w+)`$|^\| `(\w+)`", text, re.MULTILINE))
    known = {name for pair in explained for name in pair if name} | set(re.findall(r"`(\w+)`", text))
    assert {reason for row in ROWS for reason in row.reasons} <= known


def test_a_round_that_failed_names_its_reason() -> None:
    failed = [row for row in ROWS if row.outcome.startswith("Failed")]
    assert failed
    headings = set(re.findall(r"^### `(\w+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE))
    for row in failed:
        assert row.reasons, row
        assert set(row.reasons) <= headings


def test_the_page_is_what_the_data_makes_and_names_every_case_that_it_lacks() -> None:
    text = (DOCS / "reliability/chaos.md").read_text()
    assert text == page.markdown(ROWS, MISSING)
    assert all(f"`{name}`" in text for name in MISSING)


def test_a_finished_case_is_kept_and_read_again(tmp_path: Path) -> None:
    save("one", ROWS[:2], tmp_path)
    assert load("one", tmp_path) == ROWS[:2]
    assert load("two", tmp_path) is None


def test_a_page_keeps_the_rows_of_cases_that_are_not_run_again(tmp_path: Path) -> None:
    page.write(ROWS, [], tmp_path)
    assert page.written(tmp_path) == page.written()
    assert page.written(tmp_path / "none") == {}


def test_a_cell_cannot_break_the_table() -> None:
    row = Row("c", "a | b", "Training", "Failed: <script>\nx", 1.0, NOTHING)
    assert page.markdown([row], []).splitlines()[-1] == "| a \\| b | Training | Failed: &lt;script> x | 1 s | nothing |"
