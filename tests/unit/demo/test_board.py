"""Steps that run side by side are shown from start to end, and one failure stops the rest."""

import threading
from io import StringIO

import pytest
from rich.console import Console

from hack.demo.board import Board, Task, clock
from hack.demo.errors import DemoError


def board(terminal: bool = False) -> tuple[Board, StringIO]:
    out = StringIO()
    return Board(Console(file=out, force_terminal=terminal, width=100)), out


def test_clock_shows_minutes_and_seconds() -> None:
    assert clock(0) == "00:00"
    assert clock(754.9) == "12:34"


@pytest.mark.parametrize("terminal", [False, True])
def test_each_job_is_shown_with_its_step_and_outcome(terminal: bool) -> None:
    def work(task: Task) -> None:
        task.detail = "three of three"

    shown, out = board(terminal)
    shown.run(2, {"images": work, "data": work}, lambda: None)
    for words in ("[2/7] images", "[3/7] data", "three of three"):
        assert words in out.getvalue()


def test_a_failure_stops_the_other_jobs_and_is_raised() -> None:
    stopped = threading.Event()

    def fail(task: Task) -> None:
        raise DemoError("no network")

    def wait(task: Task) -> None:
        assert stopped.wait(10)

    shown, out = board()
    with pytest.raises(DemoError, match="no network"):
        shown.run(1, {"fails": fail, "waits": wait}, stopped.set)
    assert "[1/7] fails failed" in out.getvalue()
    assert "[2/7] waits done" in out.getvalue()
