"""What each kind of credentials may do on a real MinIO, minted by STS from the operator's user as in production."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from minio.credentials.providers import AssumeRoleProvider
from pydantic import SecretStr

from tests.contract.servers import ADMIN, BUCKET, OPERATOR, MinioServer
from umim import contract
from umim.api.base import ModelReference
from umim.artifacts import policies
from umim.artifacts.minio import MinioStore
from umim.artifacts.store import ObjectStore
from umim.errors import AccessDeniedError
from umim.settings import S3Credentials
from umim_operator import credentials

SITE = "hospital-a.radiology"
OTHER = "hospital-b.ultrasound"
PARENT = "a" * 64
STRANGER = "b" * 64
PARTS = "c" * 64
MODEL = ModelReference(name="base", digest=PARENT, parts_digest=PARTS)


@pytest.fixture
def uid() -> str:
    return uuid.uuid4().hex


def mint(server: MinioServer, policy: policies.Policy) -> MinioStore:
    minted = AssumeRoleProvider(
        sts_endpoint=server.settings.endpoint,
        access_key=OPERATOR.access_key,
        secret_key=OPERATOR.secret_key.get_secret_value(),
        policy=json.dumps(policy),
        duration_seconds=900,
        region=server.settings.region,
    ).retrieve()
    assert minted.session_token is not None
    return server.store(
        S3Credentials(
            access_key=minted.access_key,
            secret_key=SecretStr(minted.secret_key),
            session_token=SecretStr(minted.session_token),
        )
    )


def fill(server: MinioServer, *keys: str) -> None:
    admin = server.store(ADMIN)
    for key in keys:
        admin.put(key, b"content")


Action = Callable[[ObjectStore, str], object]
ACTIONS: dict[str, Action] = {
    "get": lambda store, key: store.get(key),
    "stat": lambda store, key: store.stat(key),
    "put": lambda store, key: store.put(key, b"forged"),
    "put if absent": lambda store, key: store.put(key, b"forged", if_absent=True),
    "delete": lambda store, key: store.delete(key),
    "list": lambda store, key: store.list(key),
}


def assert_denied(store: ObjectStore, key: str, *actions: str) -> None:
    for action in actions:
        with pytest.raises(AccessDeniedError, match="refused"):
            ACTIONS[action](store, key)


def test_a_site_reads_its_parent_and_works_in_its_own_prefix(
    minio_server: MinioServer, uid: str, tmp_path: Path
) -> None:
    parts = contract.parts_key(PARENT, PARTS)
    fill(minio_server, contract.model_key(PARENT), contract.model_manifest_key(PARENT), parts)
    site = mint(minio_server, policies.site_policy(BUCKET, uid, SITE, 1, MODEL))
    assert site.get(contract.model_key(PARENT)) == b"content"
    assert site.get(contract.model_manifest_key(PARENT)) == b"content"
    assert site.get(parts) == b"content"
    manifest = contract.update_manifest_key(uid, SITE, 1)
    assert site.stat(manifest) is None
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    site.upload(tmp_path / "large", contract.update_key(uid, SITE, 1))
    assert site.put(manifest, b"{}", if_absent=True) is True
    assert site.put(manifest, b"{}", if_absent=True) is False
    assert site.get(manifest) == b"{}"


def test_a_site_reaches_nothing_else(minio_server: MinioServer, uid: str) -> None:
    other_site, other_attempt = contract.update_key(uid, OTHER, 1), contract.update_key(uid, SITE, 2)
    other_round, other_model = contract.update_key(uid + "0", SITE, 1), contract.model_key(STRANGER)
    result, checkpoint = contract.result_key(uid, "aggregate"), contract.checkpoint_prefix(uid, "init") + "epoch-1"
    other_parts = contract.parts_key(PARENT, STRANGER)
    foreign = (other_site, other_attempt, other_round, other_model, other_parts, result, checkpoint)
    fill(minio_server, *foreign, contract.model_key(PARENT), contract.parts_key(PARENT, PARTS))
    site = mint(minio_server, policies.site_policy(BUCKET, uid, SITE, 1, MODEL))
    for key in foreign:
        assert_denied(site, key, *ACTIONS)
    for key in (contract.model_key(PARENT), contract.parts_key(PARENT, PARTS)):
        assert_denied(site, key, "put", "put if absent", "delete")
    own = contract.update_key(uid, SITE, 1)
    site.put(own, b"mine")
    assert_denied(site, own, "delete")
    for prefix in ("rounds/", contract.site_prefix(uid, SITE, 1), "models/"):
        assert_denied(site, prefix, "list")


def test_the_init_job_publishes_and_reports(minio_server: MinioServer, uid: str) -> None:
    update = contract.update_key(uid, SITE, 1)
    fill(minio_server, contract.model_key(STRANGER), update)
    init = mint(minio_server, policies.init_policy(BUCKET, uid))
    assert init.stat(contract.result_key(uid, "init")) is None
    init.put(contract.model_key(PARENT), b"model")
    init.put(contract.model_manifest_key(PARENT), b"{}", if_absent=True)
    assert init.put(contract.result_key(uid, "init"), b"{}", if_absent=True) is True
    assert_denied(init, update, "put", "delete")
    assert_denied(init, contract.result_key(uid, "aggregate"), "put")
    assert_denied(init, contract.model_key(STRANGER), "get", "delete")
    assert_denied(init, contract.round_prefix(uid), "list")


@pytest.mark.parametrize("role", ["init", "aggregate"])
def test_a_server_job_keeps_and_removes_its_own_checkpoints(
    minio_server: MinioServer, uid: str, role: contract.Role
) -> None:
    policy = policies.init_policy(BUCKET, uid) if role == "init" else policies.aggregate_policy(BUCKET, uid, MODEL)
    job = mint(minio_server, credentials.expiring(policy, datetime.now(UTC) + timedelta(minutes=5)))
    prefix = contract.checkpoint_prefix(uid, role)
    other = contract.checkpoint_prefix(uid, "aggregate" if role == "init" else "init")
    fill(minio_server, other + "epoch-0001.json", contract.checkpoint_prefix(uid + "0", role) + "epoch-0001.json")
    job.put(prefix + "epoch-0001.json", b"{}")
    assert [info.key for info in job.list(prefix)] == [prefix + "epoch-0001.json"]
    assert job.get(prefix + "epoch-0001.json") == b"{}"
    assert job.delete_prefix(prefix) == 1
    assert_denied(job, other + "epoch-0001.json", "put", "delete", "list")
    assert_denied(job, contract.checkpoint_prefix(uid + "0", role) + "epoch-0001.json", *ACTIONS)


def test_the_aggregator_reads_its_round_and_its_parent_only(minio_server: MinioServer, uid: str) -> None:
    update, other_round = contract.update_key(uid, SITE, 1), contract.update_key(uid + "0", SITE, 1)
    fill(minio_server, update, other_round, contract.model_key(PARENT), contract.model_key(STRANGER))
    job = mint(minio_server, policies.aggregate_policy(BUCKET, uid, MODEL))
    assert job.get(update) == b"content"
    assert job.get(contract.model_key(PARENT)) == b"content"
    assert job.stat(contract.result_key(uid, "aggregate")) is None
    job.put(contract.model_key("c" * 64), b"model")
    assert job.put(contract.model_manifest_key(uid.ljust(64, "0")), b"{}", if_absent=True) is True
    assert job.put(contract.result_key(uid, "aggregate"), b"{}", if_absent=True) is True
    assert_denied(job, update, "put", "delete")
    assert_denied(job, other_round, "get", "put", "delete")
    assert_denied(job, contract.model_key(STRANGER), "get", "delete")
    assert_denied(job, contract.result_key(uid, "init"), "put")
    assert_denied(job, contract.round_prefix(uid), "list")


def test_the_operator_lists_and_deletes_rounds_but_no_models(minio_server: MinioServer, uid: str) -> None:
    update = contract.update_key(uid, SITE, 1)
    fill(minio_server, update, contract.model_key(PARENT), "elsewhere/object")
    operator = minio_server.store()
    assert [info.key for info in operator.list(contract.round_prefix(uid))] == [update]
    assert operator.get(contract.model_key(PARENT)) == b"content"
    assert operator.delete_prefix(contract.round_prefix(uid)) == 1
    assert_denied(operator, contract.model_key(PARENT), "delete")
    assert_denied(operator, "elsewhere/object", *ACTIONS)
    assert_denied(operator, "models/", "list")


def test_minted_credentials_cannot_be_wider_than_the_operators(minio_server: MinioServer) -> None:
    fill(minio_server, "elsewhere/object")
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    wide = mint(minio_server, {"Version": "2012-10-17", "Statement": [everything]})
    assert_denied(wide, "elsewhere/object", *ACTIONS)
