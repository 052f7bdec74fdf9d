"""Waiting for a state of the cluster: polls with a deadline, and says what was seen instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.25


class WaitError(AssertionError):
    """A state was not reached in time."""


def wait_until(what: str, probe: Callable[[], T | None], seconds: float, seen: Callable[[], str]) -> T:
    """Return the probe's first value that is neither None nor False. Raises WaitError with what was seen."""
    end = time.monotonic() + seconds
    while True:
        found = probe()
        if found is not None and found is not False:
            return found
        if time.monotonic() >= end:
            raise WaitError(f"not reached in {seconds:.0f} s: {what}. Seen:\n{seen()}")
        time.sleep(POLL_SECONDS)
