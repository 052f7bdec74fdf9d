"""The real Helm, for tests of the charts."""

from __future__ import annotations

import pytest

from hack import render
from tests.unit.charts.helm import Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(render.helm_binary())
