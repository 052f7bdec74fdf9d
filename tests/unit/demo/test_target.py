"""Which images and values the demonstration takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hack.demo.commands import Commands
from hack.demo.errors import DemoError
from hack.demo.target import Target


def target(tmp_path: Path, **env: str) -> Target:
    return Target(Commands(tmp_path, os.environ), {"HOME": str(tmp_path), **env})


@pytest.mark.parametrize(("value", "on"), [("", False), ("0", False), ("1", True)])
def test_telemetry_is_added_where_asked_for(tmp_path: Path, value: str, on: bool) -> None:
    assert target(tmp_path, TELEMETRY=value).telemetry is on


def test_a_switch_that_is_neither_on_nor_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"TELEMETRY='yes' is neither 1 \(on\) nor 0 or empty \(off\)"):
        target(tmp_path, TELEMETRY="yes")


def test_images_of_telemetry_come_from_the_same_registry(tmp_path: Path) -> None:
    values = target(tmp_path, CLUSTER="current", REGISTRY="r.example.org/team").image_values()
    assert values["collector"] == {"repository": "team/collector"}
    assert values["prometheus"] == {"repository": "team/prometheus"}
