"""Lanes of the tests on a cluster: their names, and who brings the platform up."""

from __future__ import annotations

import pytest

from hack.testenv import lanes


def worker(number: int, count: int = 3, **more: str) -> dict[str, str]:
    """The environment of a process of pytest-xdist."""
    return {"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(count), **more}


def test_without_lanes_there_is_one_prefix_and_no_run() -> None:
    assert lanes.prefixes({}) == [lanes.prefix({})] == ["t"]
    assert lanes.run({}) is None


def test_each_lane_has_a_prefix_of_its_own_and_all_lanes_know_all_prefixes() -> None:
    assert [lanes.prefix(worker(number)) for number in range(3)] == ["t", "t1", "t2"]
    assert {tuple(lanes.prefixes(worker(number))) for number in range(3)} == {("t", "t1", "t2")}


@pytest.mark.parametrize("environ", [{}, worker(0, 1), worker(0, 4)])
def test_the_first_lane_has_the_prefix_of_a_run_without_lanes(environ: dict[str, str]) -> None:
    assert lanes.prefix({**environ, "UMIM_TEST_PREFIX": "mine"}) == "mine"


def test_the_lanes_of_a_run_share_its_name() -> None:
    assert {lanes.run(worker(number, PYTEST_XDIST_TESTRUNUID="one")) for number in range(3)} == {"one"}
