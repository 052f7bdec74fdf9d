"""Shows what the demonstration does: a live table in a terminal, else one line a change and a heartbeat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

HEARTBEAT_SECONDS = 10.0
STEPS = 7


def clock(seconds: float) -> str:
    """Return seconds as MM:SS."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


@dataclass
class Task:
    """One thing that runs, seen from outside. Written by its own thread, read by the display."""

    number: int
    """Number of the step that it belongs to, from 1."""
    title: str
    """What it does."""
    started: float = field(default_factory=time.monotonic)
    """Monotonic time of its start in seconds."""
    ended: float | None = None
    """Monotonic time of its end in seconds."""
    failed: bool = False
    """Whether it ended with an error."""
    detail: str = ""
    """What it does right now; at its end, what came of it."""

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.monotonic()) - self.started


class Board:
    """The display of a run. One at a time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.monotonic()

    @property
    def elapsed(self) -> str:
        """Time since the start as MM:SS."""
        return clock(time.monotonic() - self.started)

    def run(self, step: int, jobs: Mapping[str, Callable[[Task], None]], stop: Callable[[], None]) -> None:
        """Run jobs side by side and show them; when one fails, call ``stop``, wait for the rest and raise its error."""
        tasks = [Task(step + offset, title) for offset, title in enumerate(jobs)]
        with self._shown(tasks), ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            futures = [pool.submit(_timed, job, task) for job, task in zip(jobs.values(), tasks, strict=True)]
            try:
                _first_error(futures)
            except BaseException:
                stop()
                wait(futures)
                raise

    def one(self, step: int, title: str, job: Callable[[Task], None], stop: Callable[[], None]) -> None:
        """Run a single job, see ``run``."""
        self.run(step, {title: job}, stop)

    @contextmanager
    def _shown(self, tasks: list[Task]) -> Iterator[None]:
        if self.console.is_terminal:
            spinners = [Spinner("dots") for _ in tasks]
            with Live(console=self.console, refresh_per_second=8, get_renderable=lambda: _table(tasks, spinners)):
                yield
            return
        done = threading.Event()
        printer = threading.Thread(target=self._print_lines, args=(tasks, done), daemon=True)
        printer.start()
        try:
            yield
        finally:
            done.set()
            printer.join()

    def _print_lines(self, tasks: list[Task], done: threading.Event) -> None:
        next_beat = {id(task): 0.0 for task in tasks}
        last_round = False
        while not last_round:
            last_round = done.wait(0.2)
            for task in tasks:
                beat = next_beat[id(task)]
                if task.ended is None and task.seconds >= beat:
                    self._line(task, "…")
                    next_beat[id(task)] = task.seconds + HEARTBEAT_SECONDS
                elif task.ended is not None and beat != float("inf"):
                    self._line(task, "failed" if task.failed else "done")
                    next_beat[id(task)] = float("inf")

    def _line(self, task: Task, state: str) -> None:
        words = f"[{task.number}/{STEPS}] {task.title} {state} {clock(task.seconds)} (elapsed {self.elapsed})"
        self.console.print(f"{words} {task.detail}".rstrip(), markup=False, highlight=False, soft_wrap=True)


def _timed(job: Callable[[Task], None], task: Task) -> None:
    task.started = time.monotonic()
    try:
        job(task)
    except BaseException:
        task.failed = True
        raise
    finally:
        task.ended = time.monotonic()


def _first_error(futures: list[Future[None]]) -> None:
    for future in as_completed(futures):
        future.result()


def _table(tasks: list[Task], spinners: list[Spinner]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for task, spinner in zip(tasks, spinners, strict=True):
        mark = Text("✗", style="red") if task.failed else Text("✓", style="green") if task.ended else spinner
        title = f"[{task.number}/{STEPS}] {task.title}"
        grid.add_row(mark, Text(title), Text(clock(task.seconds), style="cyan"), Text(task.detail, style="dim"))
    return grid
