"""Progress on standard error: what runs, for how long, and a heartbeat in long steps."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEARTBEAT_S = 8.0


class ClusterError(Exception):
    """A failure the user can act on. The message is one sentence that says what to do."""


def clock(seconds: float) -> str:
    """Seconds as MM:SS."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


class Progress:
    """Prints lines with the time elapsed since its creation. Thread-safe."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def line(self, text: str) -> None:
        """Print one line with the elapsed time."""
        with self._lock:
            print(f"{text} (elapsed {clock(self.elapsed)})", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, title: str, detail: Callable[[], str] = lambda: "") -> Iterator[None]:
        """Announce a step; repeat a heartbeat with `detail()` while it runs; print its duration."""
        begin = time.monotonic()
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_S):
                more = detail()
                self.line(f"{title} … {time.monotonic() - begin:.0f} s{': ' + more if more else ''}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        self.line(f"{title}: done in {time.monotonic() - begin:.1f} s")
