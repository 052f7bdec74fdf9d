"""The list of all cases: each is a function of the world that returns its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import World

Run = Callable[[World], Iterable[Row]]


@dataclass(frozen=True)
class Case:
    """One entry of the list."""

    name: str
    run: Run
    alone: bool
    """Whether it hits what all rounds share, so that nothing may run beside it."""


CASES: dict[str, Case] = {}


def case(name: str, *, alone: bool = False) -> Callable[[Run], Run]:
    """Enter a function into the list."""

    def enter(run: Run) -> Run:
        assert name not in CASES, name
        CASES[name] = Case(name, run, alone)
        return run

    return enter
