"""What an attacker in a hospital's namespace could do with a running site's credentials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch
from umim import contract
from umim.artifacts.minio import MinioStore
from umim.errors import AccessDeniedError
from umim.settings import S3Credentials

DEADLINE = "60s"
GRACE_SECONDS = 30


@dataclass(frozen=True)
class Stolen:
    """A running site and what lies in its Secret."""

    round: Round
    site: Site
    other: Site
    values: dict[str, str]
    store: MinioStore


@pytest.fixture(scope="module")
def stolen(platform: Platform, hospitals: Hospitals, launch: Launch, sites: tuple[Site, Site, Site]) -> Stolen:
    site = hospitals.add(f"{PREFIX}-attacked", gate=True)
    round_ = launch("attacked", site, sites[0], quorum=1, deadline=DEADLINE)
    round_.wait_site(site, "Running")
    (secret,) = [item for item in round_.secrets() if item["metadata"]["namespace"] == site.namespace]
    values = platform.secret(site.namespace, secret["metadata"]["name"])
    credentials = S3Credentials(
        access_key=values[contract.ENV_S3_ACCESS_KEY],
        secret_key=SecretStr(values[contract.ENV_S3_SECRET_KEY]),
        session_token=SecretStr(values[contract.ENV_S3_SESSION_TOKEN]),
    )
    round_.wait_site(sites[0], "Succeeded")
    return Stolen(round_, site, sites[0], values, platform.store(credentials))


def test_they_read_the_parent_model_and_write_their_own_prefix(stolen: Stolen) -> None:
    digest = stolen.round.status["parent"]["digest"]
    assert stolen.store.get(contract.model_manifest_key(digest))
    key = contract.site_prefix(stolen.round.uid, stolen.site.name, 1) + "scratch"
    stolen.store.put(key, b"mine")
    assert stolen.store.get(key) == b"mine"


def test_they_reach_nothing_of_another_site_and_no_other_model(stolen: Stolen, tmp_path: Path) -> None:
    uid, other = stolen.round.uid, stolen.other.name
    with pytest.raises(AccessDeniedError):
        stolen.store.get(contract.update_manifest_key(uid, other, 1))
    with pytest.raises(AccessDeniedError):
        stolen.store.download(contract.update_key(uid, other, 1), tmp_path / "update")
    with pytest.raises(AccessDeniedError):
        stolen.store.put(contract.update_key(uid, other, 1), b"poison")
    with pytest.raises(AccessDeniedError):
        stolen.store.put(contract.site_prefix(uid, stolen.site.name, 2) + "x", b"another attempt")
    with pytest.raises(AccessDeniedError):
        stolen.store.put(contract.model_key("0" * 64), b"a model")
    with pytest.raises(AccessDeniedError):
        stolen.store.put(contract.result_key(uid, "aggregate"), b"a result")


def test_they_list_and_delete_nothing(stolen: Stolen) -> None:
    own = contract.site_prefix(stolen.round.uid, stolen.site.name, 1)
    for prefix in ("", "models/", contract.round_prefix(stolen.round.uid), own):
        with pytest.raises(AccessDeniedError):
            stolen.store.list(prefix)
    with pytest.raises(AccessDeniedError):
        stolen.store.delete(contract.model_key(stolen.round.status["parent"]["digest"]))


def test_the_redis_user_appends_to_its_own_stream_and_nothing_else(platform: Platform, stolen: Stolen) -> None:
    client = platform.redis(stolen.values[contract.ENV_REDIS_USERNAME], stolen.values[contract.ENV_REDIS_PASSWORD])
    own = contract.progress_stream(stolen.round.uid, stolen.site.name)
    assert client.xadd(own, {"progress": "{}"})
    for forbidden in (
        lambda: client.xadd(contract.progress_stream(stolen.round.uid, stolen.other.name), {"progress": "{}"}),
        lambda: client.xrange(own),
        lambda: client.keys("*"),
        client.acl_list,
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            forbidden()


def test_the_pod_has_no_token_for_the_api(stolen: Stolen) -> None:
    (pod,) = stolen.round.pods(stolen.site.namespace)
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not any("token" in volume["name"] for volume in pod["spec"]["volumes"])


def test_they_are_dead_after_the_deadline_and_gone_from_the_namespace(platform: Platform, stolen: Stolen) -> None:
    stolen.round.wait_phase("Complete")
    assert stolen.round.site(stolen.site)["phase"] == "Late"
    left = [item["metadata"]["name"] for item in platform.api.select("Secret", stolen.site.namespace)]
    assert [name for name in left if not name.startswith("sh.helm.release.")] == []
    digest = stolen.round.status["parent"]["digest"]
    key = contract.model_manifest_key(digest)
    wait_until("the credentials refused", lambda: _denied(stolen.store, key), GRACE_SECONDS + 15, stolen.round.dump)
    assert [user for user in platform.redis().acl_users() if stolen.round.uid in user] == []


def _denied(store: MinioStore, key: str) -> bool:
    try:
        store.get(key)
    except AccessDeniedError:
        return True
    return False
