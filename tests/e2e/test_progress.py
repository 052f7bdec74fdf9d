"""Live progress is for people: with Redis it shows, without Redis a round completes all the same."""

from __future__ import annotations

import pytest

from hack.testenv.hospitals import Site
from hack.testenv.platform import REDIS, Platform
from tests.e2e.conftest import Launch


def test_progress_shows_while_sites_train(launch: Launch, sites: tuple[Site, Site, Site]) -> None:
    round_ = launch("live", *sites[:2], training={"epochs": 200})
    seen = round_.wait(
        "progress of a running site",
        lambda status: [
            item for item in status.get("sites", []) if item["phase"] == "Running" and item.get("progress")
        ],
    )
    progress = seen[0]["progress"]
    assert progress["epochs"] == 200
    assert 0 <= progress["step"] <= progress["steps"]
    assert progress["imagesPerSecond"] > 0
    assert progress["loss"] > 0
    round_.wait("a share of the work", lambda status: status["progress"] not in ("0%", "100%"))
    round_.wait_phase("Complete")
    assert round_.status["progress"] == "100%"


@pytest.mark.alone("it stops Redis")
def test_a_round_completes_without_redis(platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]) -> None:
    platform.scale(REDIS, 0)
    try:
        round_ = launch("no-redis", *sites[:2])
        round_.wait_phase("Complete")
        assert all(item.get("progress") is None for item in round_.status["sites"])
        assert round_.secrets() == []
    finally:
        platform.scale(REDIS, 1)


def test_two_rounds_over_the_same_hospitals_do_not_mix(launch: Launch, sites: tuple[Site, Site, Site]) -> None:
    one = launch("side-by-side-1", *sites[:2], training={"seed": 1})
    two = launch("side-by-side-2", *sites[:2], training={"seed": 2})
    one.wait_phase("Complete")
    two.wait_phase("Complete")
    assert one.status["globalModel"]["digest"] != two.status["globalModel"]["digest"]
    for round_ in (one, two):
        digests = {item["site"]: item["updateDigest"] for item in round_.model()["spec"]["contributors"]}
        assert digests == {item["name"]: item["updateDigest"] for item in round_.status["sites"]}
        assert len(round_.jobs()) == 3
