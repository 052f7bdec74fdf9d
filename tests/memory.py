"""Tests that must not take more memory than the input is worth."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

MEBIBYTE = 1 << 20


@contextmanager
def little_memory(most: int = 32 * MEBIBYTE) -> Iterator[None]:
    """Fail where Python and numpy together ask for more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
