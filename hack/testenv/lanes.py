"""Lanes: processes of pytest-xdist that test on one cluster at once, each in namespaces of its own."""

from __future__ import annotations

from collections.abc import Mapping

BASE = "UMIM_TEST_PREFIX"
"""With another value than the default, a second run of the tests can work beside the first."""
_WORKER = "PYTEST_XDIST_WORKER"
_COUNT = "PYTEST_XDIST_WORKER_COUNT"
_RUN = "PYTEST_XDIST_TESTRUNUID"


def lane(environ: Mapping[str, str]) -> int:
    """Return the number of this process's lane; 0 where nothing runs beside it."""
    return int(environ.get(_WORKER, "gw0").removeprefix("gw"))


def prefixes(environ: Mapping[str, str]) -> list[str]:
    """Return what the names of the namespaces start with, for each lane of the run.

    The first lane has the prefix of a run without lanes, so that each sweeps what the other left.
    """
    base = environ.get(BASE, "t")
    return [base + (str(number) if number else "") for number in range(int(environ.get(_COUNT, "1")))]


def prefix(environ: Mapping[str, str]) -> str:
    """Return what the names of this lane's namespaces start with."""
    return prefixes(environ)[lane(environ)]


def run(environ: Mapping[str, str]) -> str | None:
    """Return what names the run that this lane belongs to. None: it is alone."""
    return environ.get(_RUN)
