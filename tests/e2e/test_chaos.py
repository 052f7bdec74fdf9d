"""A few quick faults of ``make chaos``, at once: what it shows at length must not break unseen."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.e2e.chaos.cases import CASES
from tests.e2e.chaos.rows import Row, assert_nothing_lost
from tests.e2e.chaos.world import World

QUICK = ("quota-pods", "secret-deleted")


@pytest.fixture(scope="module")
def found(world: World) -> Iterator[dict[str, Future[list[Row]]]]:
    with ThreadPoolExecutor(len(QUICK)) as pool:
        yield {name: pool.submit(lambda name=name: list(CASES[name].run(world))) for name in QUICK}  # type: ignore[misc]


@pytest.mark.parametrize("name", QUICK)
def test_a_round_survives_a_fault_and_loses_nothing(found: dict[str, Future[list[Row]]], name: str) -> None:
    assert_nothing_lost(found[name].result())
