"""A deleted round leaves nothing but its model."""

from __future__ import annotations

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch
from umim import contract


def _assert_nothing_left(platform: Platform, round_: Round) -> None:
    assert round_.jobs() == []
    assert round_.secrets() == []
    wait_until("no Pod is left", lambda: not round_.pods(), 60, round_.dump)
    assert round_.objects() == []
    redis = platform.redis()
    assert list(redis.scan_iter(match=contract.progress_stream(round_.uid, "*"))) == []
    assert [user for user in redis.acl_users() if round_.uid in user] == []


def test_a_round_deleted_in_training_leaves_nothing(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("deleted", *sites[:2], training={"epochs": 500})
    round_.wait("progress", lambda status: any(item.get("progress") for item in status.get("sites", [])))
    assert len(round_.secrets()) == 2
    round_.delete()
    _assert_nothing_left(platform, round_)


def test_a_complete_round_is_deleted_and_its_model_stays(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("finished", sites[0])
    round_.wait_phase("Complete")
    model = round_.model()
    round_.delete()
    _assert_nothing_left(platform, round_)
    assert platform.api.get("GlobalModel", FEDERATION, model["metadata"]["name"]) == model
    assert platform.store().stat(model["spec"]["objectKey"]) is not None


def test_a_hospital_namespace_that_vanishes_does_not_block_the_deletion(
    platform: Platform, hospitals: Hospitals, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    leaving = hospitals.add(f"{PREFIX}-leaving")
    round_ = launch("left-alone", sites[0], leaving, training={"epochs": 500})
    round_.wait("progress", lambda status: any(item.get("progress") for item in status.get("sites", [])))
    platform.api.delete("Namespace", "", leaving.namespace)
    wait_until(
        "the hospital is gone",
        lambda: platform.api.find("Namespace", "", leaving.namespace) is None,
        120,
        round_.dump,
    )
    round_.delete()
    _assert_nothing_left(platform, round_)
