"""Runs programs for the demonstration: output in log files, the newest line on the board, all ended together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from hack.demo.board import Task
from hack.demo.errors import DemoError

ROOT = Path(__file__).resolve().parents[2]
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")


class Commands:
    """Programs of one run. ``stop`` ends those that still run."""

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        self.logs = logs
        self.env = dict(env)
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        logs.mkdir(parents=True, exist_ok=True)

    def stream(self, task: Task, name: str, command: Sequence[str], advice: str) -> None:
        """Run a long program in the checkout; its output goes to NAME.log and its newest line to the task.

        Raises DemoError with the end of the output, the log's path and the advice when it fails.
        """
        log = self.logs / f"{name}.log"
        tail: list[str] = []
        with log.open("w", encoding="utf-8") as file, self._process(command) as process:
            assert process.stdout is not None  # asked for below
            for line in process.stdout:
                file.write(line)
                clean = _CONTROL.sub("", line).strip()
                if clean:
                    task.detail = clean
                    tail = [*tail[-4:], clean]
        self._forget(process)
        if process.returncode != 0:
            said = "\n  ".join(tail)
            raise DemoError(f"'{' '.join(command)}' failed:\n  {said}\n{advice} The whole output: {log}")

    def output(self, command: Sequence[str], advice: str, stdin: str | None = None) -> str:
        """Run a short program and return its standard output. Raises DemoError with its error output."""
        run = subprocess.run(
            command, cwd=ROOT, env=self.env, input=stdin, capture_output=True, text=True, check=False, timeout=300
        )
        if run.returncode != 0:
            raise DemoError(f"'{' '.join(command)}' failed: {run.stderr.strip()[-600:]}\n{advice}")
        return run.stdout

    def stop(self) -> None:
        """End every program that still runs; later ones are refused."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)

    def _process(self, command: Sequence[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise DemoError("the run is being stopped.")
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # so that stop reaches what the program started
            )
            self._running.add(process)
        return process

    def _forget(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(process)
