"""``umim preflight`` on a real API server: the platform of the tests passes, an unprepared namespace does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, SYSTEM, Platform


@pytest.fixture(scope="module")
def site(hospitals: Hospitals) -> Site:
    """A hospital that consents to the federation of the tests."""
    return hospitals.add(f"{PREFIX}-preflight")


def _checks(platform: Platform, namespace: str) -> tuple[int, dict[str, Any]]:
    arguments = ["preflight", "-n", namespace, "--operator-namespace", SYSTEM, "-o", "json"]
    done = platform.run_umim(*arguments)
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


def test_the_platform_of_the_tests_is_ready(platform: Platform, site: Site) -> None:
    _, checks = _checks(platform, FEDERATION)
    names = ("cluster", "resources", "operator", "your rights", "hospitals", "store", "Redis")
    assert {name: checks[name]["state"] for name in names} == dict.fromkeys(names, "ok")
    for place in (FEDERATION, site.namespace):
        assert checks[f"operator's rights in {place}"]["state"] == "ok"


def test_a_namespace_that_nobody_prepared_is_not_ready(platform: Platform) -> None:
    code, checks = _checks(platform, "default")
    assert code == 1
    assert checks["hospitals"]["state"] == "failed"
    assert checks["operator's rights in default"]["state"] == "failed"
