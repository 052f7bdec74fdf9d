"""Bodies that the tests of the API share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.waiting import wait_until
from tests.bad_resources import GOOD
from tests.e2e.conftest import start_model

__all__ = ["changed", "good_federation", "good_hospital", "good_model", "good_round", "start_model"]

Object = dict[str, Any]
KINDS = ("Federation", "FederationRound", "Hospital", "GlobalModel")


def good_round(name: str = "good") -> Object:
    """Return a round that the API server accepts. No hospital of it exists, so no Job ever starts."""
    hospitals = [{"namespace": f"nowhere-{letter}", "name": "radiology"} for letter in "abc"]
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "FederationRound",
        "metadata": {"name": name, "namespace": FEDERATION},
        "spec": {
            "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"globalModel": "nothing"}},
            "participants": {"hospitals": hospitals, "quorum": 2},
        },
    }


def good_federation(name: str = "good") -> Object:
    """Return a campaign of three stages that the API server accepts. Its start model does not exist."""
    hospitals = [{"namespace": f"nowhere-{letter}", "name": "radiology"} for letter in "ab"]
    participants = {"hospitals": hospitals, "quorum": 2}
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Federation",
        "metadata": {"name": name, "namespace": FEDERATION},
        "spec": {
            "model": {"architecture": "test_vit", "imageSize": 32, "parent": {"globalModel": "nothing"}},
            "stages": [{"name": name, "participants": participants} for name in ("ct", "mri", "us")],
        },
    }


def good_hospital() -> Object:
    """Return a Hospital that the API server accepts and that consents to nobody."""
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Hospital",
        "metadata": {"name": "good", "namespace": FEDERATION},
        "spec": {
            "federations": [],
            "data": {"claimName": "data", "format": "npz"},
            "workClaimName": "work",
        },
    }


def good_model() -> Object:
    """Return a GlobalModel that the API server accepts."""
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "GlobalModel",
        "metadata": {"name": "good", "namespace": FEDERATION},
        "spec": copy.deepcopy(GOOD["GlobalModel"]),
    }


def changed(body: Object, path: str, value: Any) -> Object:
    """Return a copy with one field set, or removed when the value is None. path: keys with dots between."""
    copied = copy.deepcopy(body)
    *parents, last = path.split(".")
    node = copied
    for key in parents:
        node = node.setdefault(key, {})
    if value is None:
        node.pop(last, None)
    else:
        node[last] = value
    return copied


@pytest.fixture
def clean(platform: Platform) -> Iterator[Platform]:
    """The platform without objects named good, before and after the test."""
    _remove_good(platform)
    yield platform
    _remove_good(platform)


def _remove_good(platform: Platform) -> None:
    for kind in KINDS:
        platform.api.delete(kind, FEDERATION, "good")
    wait_until(
        "the objects named good deleted",
        lambda: not any(platform.api.find(kind, FEDERATION, "good") for kind in KINDS),
        60,
        lambda: "they are still there",
    )
