"""All cases: importing the modules enters them into the list."""

from __future__ import annotations

from tests.e2e.chaos import (  # noqa: F401 each enters its cases
    control_plane,
    deletions,
    hospital_cases,
    limits,
    operator_cases,
    pods,
    redis_cases,
    store,
)
from tests.e2e.chaos.registry import CASES

__all__ = ["CASES"]
