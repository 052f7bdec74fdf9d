"""Live progress over a real Redis."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import pytest
import redis
from pydantic import SecretStr

from tests.contract.conftest import RunRedis
from tests.contract.servers import free_port
from umim import contract
from umim.api.round import Progress
from umim.progress import FIELD, STREAM_LENGTH, ProgressCredentials, ProgressPublisher, ProgressReader
from umim.settings import RedisSettings

UID = "0b2f"
SITE = "hospital-a.radiology"
OTHER = "hospital-b.ultrasound"


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(step: int) -> Progress:
    time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return Progress(epoch=0, epochs=1, step=step, steps=1000, loss=0.5, images_per_second=10, eta_seconds=9, time=time)


def as_user(redis_settings: RedisSettings, user: ProgressCredentials | None) -> RedisSettings:
    assert user is not None
    return redis_settings.model_copy(update={"username": user.username, "password": SecretStr(user.password)})


def publisher(redis_settings: RedisSettings, clock: Clock, site: str = SITE) -> ProgressPublisher:
    return ProgressPublisher(redis_settings, contract.progress_stream(UID, site), clock)


def test_the_newest_report_of_every_site_is_read(
    redis_settings: RedisSettings, progress_reader: ProgressReader
) -> None:
    clock = Clock()
    with publisher(redis_settings, clock) as first, publisher(redis_settings, clock, OTHER) as second:
        for step in (1, 2):
            assert first.publish(report(step), last=True)
        assert second.publish(report(7))
    snapshot = progress_reader.latest(UID, [SITE, OTHER, "hospital-c.silent"])
    assert snapshot.available
    assert {site: progress.step for site, progress in snapshot.by_source.items()} == {SITE: 2, OTHER: 7}
    assert progress_reader.latest(UID, []).available


def test_reports_are_sent_at_a_bounded_rate_and_the_last_one_always(redis_settings: RedisSettings) -> None:
    clock = Clock()
    with publisher(redis_settings, clock) as job:
        taken = []
        for clock.now in (100.0, 100.5, 101.9, 102.0, 103.0):
            taken.append(job.publish(report(1)))
        assert taken == [True, False, False, True, False]
        assert job.publish(report(2), last=True)
        assert (job.sent, job.dropped) == (3, 0)


def test_a_minted_user_appends_to_its_stream_and_does_nothing_else(
    redis_settings: RedisSettings, progress_reader: ProgressReader
) -> None:
    user = as_user(redis_settings, progress_reader.mint_user(UID, SITE, 1))
    with publisher(user, Clock()) as own, publisher(user, Clock(), OTHER) as foreign:
        assert own.publish(report(1))
        assert not foreign.publish(report(1))
        assert foreign.dropped == 1
    stream = contract.progress_stream(UID, SITE)
    password = user.password.get_secret_value() if user.password else ""
    with redis.Redis.from_url(user.url, username=user.username, password=password, protocol=2) as client:
        for command in (["XRANGE", stream, "-", "+"], ["DEL", stream], ["KEYS", "*"], ["ACL", "LIST"], ["FLUSHALL"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_minting_again_replaces_the_password(redis_settings: RedisSettings, progress_reader: ProgressReader) -> None:
    before = as_user(redis_settings, progress_reader.mint_user(UID, SITE, 1))
    after = as_user(redis_settings, progress_reader.mint_user(UID, SITE, 1))
    with publisher(before, Clock()) as old, publisher(after, Clock()) as new:
        assert not old.publish(report(1))
        assert new.publish(report(1))


def test_a_dropped_user_is_cut_off(redis_settings: RedisSettings, progress_reader: ProgressReader) -> None:
    clock = Clock()
    with publisher(as_user(redis_settings, progress_reader.mint_user(UID, SITE, 1)), clock) as job:
        assert job.publish(report(1))
        assert progress_reader.drop_user(UID, SITE, 1)
        clock.now += 10
        assert not job.publish(report(2))
    assert progress_reader.drop_user(UID, SITE, 1)
    assert progress_reader.latest(UID, [SITE]).by_source[SITE].step == 1


def test_a_stream_does_not_grow_without_bound(redis_settings: RedisSettings, progress_reader: ProgressReader) -> None:
    with publisher(redis_settings, Clock()) as job:
        for step in range(STREAM_LENGTH + 300):
            assert job.publish(report(step), last=True)
    with redis.Redis.from_url(redis_settings.url, protocol=2) as client:
        assert client.xlen(contract.progress_stream(UID, SITE)) <= STREAM_LENGTH + 100
    assert progress_reader.latest(UID, [SITE]).by_source[SITE].step == STREAM_LENGTH + 299


def test_what_a_site_forges_hides_no_other_site(redis_settings: RedisSettings, progress_reader: ProgressReader) -> None:
    sites = [f"hospital-{letter}.x" for letter in "abcd"]
    with redis.Redis.from_url(redis_settings.url, protocol=2) as client:
        client.xadd(contract.progress_stream(UID, sites[0]), {FIELD: "{"})
        client.xadd(contract.progress_stream(UID, sites[1]), {"other": "field"})
        client.set(contract.progress_stream(UID, sites[2]), "not a stream")
        client.xadd(contract.progress_stream(UID, sites[3]), {FIELD: b"\xff\xfe"})
    with publisher(redis_settings, Clock()) as job:
        assert job.publish(report(3))
    snapshot = progress_reader.latest(UID, [*sites, SITE])
    assert snapshot.available
    assert list(snapshot.by_source) == [SITE]


def test_deleting_the_streams_of_a_round_leaves_other_rounds(
    redis_settings: RedisSettings, progress_reader: ProgressReader
) -> None:
    other_round = contract.progress_stream(UID + "0", SITE)
    with publisher(redis_settings, Clock()) as job, ProgressPublisher(redis_settings, other_round) as other:
        assert job.publish(report(1))
        assert other.publish(report(1))
    assert progress_reader.delete_streams(UID)
    assert progress_reader.latest(UID, [SITE]).by_source == {}
    assert list(progress_reader.latest(UID + "0", [SITE]).by_source) == [SITE]


def test_dropping_the_users_of_a_round_leaves_other_rounds(
    redis_settings: RedisSettings, progress_reader: ProgressReader
) -> None:
    for attempt in (1, 2):
        progress_reader.mint_user(UID, SITE, attempt)
    progress_reader.mint_user(UID, "aggregate", 1)
    other = progress_reader.mint_user(UID + "0", SITE, 1)
    assert other is not None
    assert progress_reader.drop_users(UID)
    assert progress_reader.drop_users(UID)
    with redis.Redis.from_url(redis_settings.url, protocol=2, decode_responses=True) as client:
        assert [name for name in client.acl_users() if UID in name] == [other.username]
    assert progress_reader.drop_users(UID + "0")


def test_without_redis_nothing_is_known_and_nothing_raises() -> None:
    dead = RedisSettings(url=f"redis://127.0.0.1:{free_port()}")
    with ProgressReader(dead) as progress_reader:
        assert not progress_reader.latest(UID, [SITE]).available
        assert progress_reader.mint_user(UID, SITE, 1) is None
        assert not progress_reader.drop_user(UID, SITE, 1)
        assert not progress_reader.drop_users(UID)
        assert not progress_reader.delete_streams(UID)


def test_a_publisher_backs_off_counts_what_it_drops_and_goes_on_when_redis_is_back(run_redis: RunRedis) -> None:
    port, clock = free_port(), Clock()
    with publisher(RedisSettings(url=f"redis://127.0.0.1:{port}"), clock) as job:
        assert not job.publish(report(1))
        run_redis(port)
        clock.now += 1.9
        assert not job.publish(report(2), last=True), "it asked again before its wait was over"
        clock.now += 0.2
        assert job.publish(report(3))
        assert (job.sent, job.dropped) == (1, 2)


def test_a_server_that_never_answers_stops_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis_settings = RedisSettings(url=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with publisher(redis_settings, Clock()) as job, ProgressReader(redis_settings) as progress_reader:
            assert not job.publish(report(1))
            assert not progress_reader.latest(UID, [SITE]).available


def test_without_settings_a_publisher_does_nothing() -> None:
    with ProgressPublisher(None, "stream") as job:
        assert not job.publish(report(1))
        assert (job.sent, job.dropped) == (0, 0)
