"""A program that fails is reported with its last words and where its output lies."""

import os
import sys
import threading
from pathlib import Path

import pytest

from hack.demo.board import Task
from hack.demo.commands import Commands
from hack.demo.errors import DemoError


def test_the_newest_line_is_shown_and_all_output_is_kept(tmp_path: Path) -> None:
    task = Task(1, "x")
    Commands(tmp_path, os.environ).stream(task, "x", [sys.executable, "-c", "print('one'); print('two')"], "")
    assert task.detail == "two"
    assert (tmp_path / "x.log").read_text() == "one\ntwo\n"


def test_a_failure_has_the_last_lines_the_log_and_the_advice(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('disk is full'); sys.exit(3)"]
    with pytest.raises(DemoError) as caught:
        Commands(tmp_path, os.environ).stream(Task(1, "x"), "build", command, "Free some space.")
    for words in ("disk is full", "Free some space.", str(tmp_path / "build.log")):
        assert words in str(caught.value)


def test_stop_ends_a_running_program_and_refuses_later_ones(tmp_path: Path) -> None:
    commands = Commands(tmp_path, os.environ)
    task = Task(1, "x")
    errors: list[DemoError] = []

    def run() -> None:
        try:
            commands.stream(task, "x", [sys.executable, "-uc", "print('up'); import time; time.sleep(600)"], "")
        except DemoError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while task.detail != "up":
        thread.join(0.01)
        assert thread.is_alive()
    commands.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert errors
    with pytest.raises(DemoError, match="being stopped"):
        commands.stream(task, "y", ["true"], "")
