"""The aggregator Job on a real MinIO, with the credentials that the operator mints for it."""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.contract.servers import ADMIN, MinioServer
from umim import contract
from umim.api.base import ModelReference
from umim.api.hospital import PrivacySpec
from umim.api.jobs import AggregateJobConfig, DatasetLocation, JobConfig, SiteJobConfig, UpdateReference
from umim.api.round import AggregationSpec, TrainingSpec
from umim.artifacts.manifests import manifest_bytes, read_job_result, read_update_manifest
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.artifacts.models import fetch_model, publish_model, publish_update
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.entrypoints.aggregate import aggregate_once, main
from umim.errors import AccessDeniedError
from umim.settings import StoreSettings
from umim.training.reporter import Clock
from umim.training.runtime import start_runtime
from umim.training.site import Surroundings
from umim_operator.credentials import Mint

SITES = {"hospital-a.x": 1, "hospital-b.x": 3}
LIFETIME = timedelta(minutes=15)


@pytest.fixture
def uid() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def parent(minio_server: MinioServer, tmp_path: Path, uid: str) -> ModelReference:
    path = write_safetensors({"w": torch.zeros(3), "n": torch.tensor(1)}, tmp_path / "start").path
    digest = publish_model(
        minio_server.store(ADMIN),
        path,
        architecture="vit",
        image_size=64,
        strategy="init-random",
        round_uid=uid,
        seed=0,
        software={},
        created=datetime.now(UTC),
    )
    return ModelReference(name="base", digest=digest)


def base(uid: str) -> JobConfig:
    return JobConfig(
        round_namespace="federation", round_name="r", round_uid=uid, attempt=1, architecture="vit", image_size=64
    )


def site_config(uid: str, site: str, parent: ModelReference) -> SiteJobConfig:
    return SiteJobConfig(
        **dict(base(uid)),
        site=site,
        parent=parent,
        training=TrainingSpec(),
        data=DatasetLocation(path="/data", format="npz", task="none"),
        work_path="/work",
        privacy=PrivacySpec(),
    )


def environment(server: MinioServer, config: JobConfig, end: datetime | None = None) -> dict[str, str]:
    """Return what the operator puts into the Job's Pod."""
    minted = Mint(server.settings, None).issue(config, end or datetime.now(UTC) + LIFETIME, LIFETIME)
    return {
        contract.ENV_CONFIG: manifest_bytes(config).decode(),
        contract.ENV_S3_ENDPOINT: server.settings.endpoint,
        contract.ENV_S3_BUCKET: server.settings.bucket,
        **minted,
    }


def commit(server: MinioServer, uid: str, site: str, parent: ModelReference, path: Path) -> UpdateReference:
    """Commit an update with the site's own credentials."""
    store = MinioStore.from_settings(StoreSettings.from_env(environment(server, site_config(uid, site, parent))))
    manifest = publish_update(
        store,
        path,
        round_uid=uid,
        site=site,
        attempt=1,
        parent_digest=parent.digest,
        architecture="vit",
        image_size=64,
        samples=SITES[site],
        metrics={"loss_after": float(SITES[site])},
        seed=0,
        software={},
        created=datetime.now(UTC),
    )
    assert read_update_manifest(store, uid, site, 1) == manifest
    return UpdateReference(site=site, attempt=1, digest=manifest.file.digest)


@pytest.fixture
def config(minio_server: MinioServer, uid: str, parent: ModelReference, tmp_path: Path) -> AggregateJobConfig:
    """A round whose sites have committed: 0 and 4, with 1 and 3 samples."""
    updates = []
    for number, site in enumerate(SITES):
        tensors = {"w": torch.full((3,), 4.0 * number), "n": torch.tensor(9)}
        written = write_safetensors(tensors, tmp_path / "update")
        updates.append(commit(minio_server, uid, site, parent, written.path))
    return AggregateJobConfig(
        **dict(base(uid)),
        parent=parent,
        aggregation=AggregationSpec(),
        updates=updates,
        quorum=2,
        seed=0,
        work_path=str(tmp_path / "work"),
    )


def test_updates_of_sites_become_a_model_and_a_result(
    minio_server: MinioServer, uid: str, config: AggregateJobConfig, tmp_path: Path
) -> None:
    env = environment(minio_server, config)
    main(env, Clock())
    operator = minio_server.store()
    result = read_job_result(operator, uid, "aggregate")
    assert result is not None
    assert result.exclusions == []
    assert result.model_digest is not None
    manifest = fetch_model(operator, result.model_digest, tmp_path / "model")
    assert [(entry.site, entry.samples) for entry in manifest.contributors] == sorted(SITES.items())
    assert manifest.metrics == {"loss_after": 2.5}
    merged = read_safetensors(tmp_path / "model")
    assert merged["w"].tolist() == [3.0, 3.0, 3.0]
    assert merged["n"].item() == 1
    before = operator.stat(contract.result_key(uid, "aggregate"))
    main(env, Clock())
    assert operator.stat(contract.result_key(uid, "aggregate")) == before


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """Passes calls on to a store until it has answered so many: then the process is killed."""

    def __init__(self, store: ObjectStore, calls: int) -> None:
        self._store = store
        self._left = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= 1
            return method(*arguments, **options)

        return call


def job_store(server: MinioServer, config: AggregateJobConfig) -> ObjectStore:
    """Return the store with the rights of the Job."""
    return MinioStore.from_settings(StoreSettings.from_env(environment(server, config)))


def surroundings() -> Surroundings:
    return Surroundings(start_runtime(1), lambda _: None)


def digest_of(server: MinioServer, uid: str) -> str:
    result = read_job_result(server.store(), uid, "aggregate")
    assert result is not None
    assert result.model_digest is not None
    return result.model_digest


def forget(server: MinioServer, uid: str) -> None:
    """Remove the result and its model."""
    store = server.store(ADMIN)
    store.delete_prefix(contract.model_prefix(digest_of(server, uid)))
    store.delete_prefix(f"{contract.round_prefix(uid)}aggregate/")


def test_killed_after_any_call_to_the_store_and_started_again_it_publishes_the_same_model(
    minio_server: MinioServer, uid: str, config: AggregateJobConfig
) -> None:
    aggregate_once(job_store(minio_server, config), config, surroundings())
    undisturbed = digest_of(minio_server, uid)
    ended, calls = False, 0
    while not ended:
        forget(minio_server, uid)
        store = cast(ObjectStore, Mortal(job_store(minio_server, config), calls))
        try:
            aggregate_once(store, config, surroundings())
            ended = True
        except Killed:
            calls += 1
        again = config.model_copy(update={"attempt": 2})
        aggregate_once(job_store(minio_server, again), again, surroundings())
        assert digest_of(minio_server, uid) == undisturbed, f"killed after {calls} calls"
    assert calls > 10, "it must have been killed before, in and after the merge"


def test_two_at_once_publish_one_model_and_one_result(
    minio_server: MinioServer, uid: str, config: AggregateJobConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meeting = threading.Barrier(2)

    class Meeting(MinioStore):
        def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
            if key == contract.result_key(uid, "aggregate"):
                meeting.wait(60)  # each has merged and published before either commits
            return super().put(key, data, if_absent=if_absent)

    def run(attempt: int) -> None:
        own = config.model_copy(update={"attempt": attempt, "work_path": str(tmp_path / f"work-{attempt}")})
        settings = StoreSettings.from_env(environment(minio_server, own))
        aggregate_once(Meeting.from_settings(settings), own, around)

    around = surroundings()
    caplog.set_level(logging.INFO)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (1, 2)))
    digest = digest_of(minio_server, uid)
    published = [text for text in caplog.messages if text.startswith("published model")]
    assert published == [f"published model {digest} from 2 updates"] * 2
    assert sum("another attempt committed the result" in text for text in caplog.messages) == 1
    assert [info.key for info in minio_server.store(ADMIN).list(f"{contract.round_prefix(uid)}aggregate/")] == [
        contract.result_key(uid, "aggregate")
    ]


def test_a_sites_credentials_lapse_with_the_rounds_deadline(
    minio_server: MinioServer, uid: str, parent: ModelReference
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    env = environment(minio_server, site_config(uid, "hospital-a.x", parent), past)
    store = MinioStore.from_settings(StoreSettings.from_env(env), RetryPolicy(attempts=1))
    with pytest.raises(AccessDeniedError, match="refused"):
        store.get(contract.model_key(parent.digest))
    with pytest.raises(AccessDeniedError, match="refused"):
        store.put(contract.update_manifest_key(uid, "hospital-a.x", 1), b"{}", if_absent=True)
