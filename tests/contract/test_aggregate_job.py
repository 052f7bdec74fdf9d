"""The aggregator Job on a real MinIO, with the credentials that the operator mints for it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.entrypoints.aggregate import main
from umim.errors import AccessDeniedError
from umim.settings import StoreSettings
from umim.training.reporter import Clock
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


def test_updates_of_sites_become_a_model_and_a_result(
    minio_server: MinioServer, uid: str, parent: ModelReference, tmp_path: Path
) -> None:
    updates = []
    for number, site in enumerate(SITES):
        tensors = {"w": torch.full((3,), 4.0 * number), "n": torch.tensor(9)}
        written = write_safetensors(tensors, tmp_path / "update")
        updates.append(commit(minio_server, uid, site, parent, written.path))
    config = AggregateJobConfig(
        **dict(base(uid)),
        parent=parent,
        aggregation=AggregationSpec(),
        updates=updates,
        quorum=2,
        seed=0,
        work_path=str(tmp_path / "work"),
    )
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
