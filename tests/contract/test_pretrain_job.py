"""The pretraining Job on a real MinIO and Redis, with the credentials that the operator mints for it."""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import tenacity

from tests.contract.servers import ADMIN, MinioServer, running
from umim import contract
from umim.api.jobs import DatasetLocation, InitJobConfig
from umim.api.round import OptimisationSpec
from umim.artifacts.manifests import manifest_bytes, read_job_result, read_model_manifest
from umim.progress import ProgressReader
from umim.settings import RedisSettings
from umim_operator.credentials import Mint

LIFETIME = timedelta(minutes=15)
MARK = 100_000.0
"""Seconds that this training does not take."""
EPOCHS = 120
"""Long enough to be killed after the first report and checkpoint."""
PATIENT = tenacity.Retrying(stop=tenacity.stop_after_delay(300), wait=tenacity.wait_fixed(0.1), reraise=True)


def init_config(folder: Path, attempt: int, uid: str) -> InitJobConfig:
    """A long pretraining on random images, in an empty work folder for every attempt, as in a Pod."""
    return InitJobConfig(
        round_namespace="federation",
        round_name="r",
        round_uid=uid,
        attempt=attempt,
        architecture="test_vit",
        image_size=32,
        init="mim",
        optimisation=OptimisationSpec(epochs=EPOCHS, batch_size=8),
        data=DatasetLocation(path=str(folder / "pool.npz"), format="npz", task="none"),
        work_path=str(folder / f"work-{attempt}"),
    )


def environment(
    server: MinioServer, redis: RedisSettings, reader: ProgressReader, config: InitJobConfig
) -> dict[str, str]:
    """Return what the operator puts into the Job's Pod."""
    minted = Mint(server.settings, reader).issue(config, datetime.now(UTC) + LIFETIME, LIFETIME)
    return {
        **os.environ,
        contract.ENV_CONFIG: manifest_bytes(config).decode(),
        contract.ENV_S3_ENDPOINT: server.settings.endpoint,
        contract.ENV_S3_BUCKET: server.settings.bucket,
        contract.ENV_REDIS_URL: redis.url,
        **minted,
        "OMP_NUM_THREADS": "1",
    }


def test_a_pretraining_whose_pod_is_killed_goes_on_from_the_store(
    minio_server: MinioServer, redis_settings: RedisSettings, progress_reader: ProgressReader, tmp_path: Path
) -> None:
    uid = uuid.uuid4().hex
    np.savez(tmp_path / "pool.npz", train_images=np.random.default_rng(0).integers(0, 255, (24, 32, 32), np.uint8))
    store, prefix = minio_server.store(ADMIN), contract.checkpoint_prefix(uid, "init")
    command = [sys.executable, "-m", "umim.entrypoints.pretrain"]

    def checkpointed() -> str:
        found = [info.key for info in store.list(prefix) if info.key.endswith(".json")]
        assert found, (tmp_path / "first.log").read_text()
        return max(found)

    def reported() -> None:
        assert "init" in progress_reader.latest(uid, ["init"]).by_source, (tmp_path / "first.log").read_text()

    first = environment(minio_server, redis_settings, progress_reader, init_config(tmp_path, 1, uid))
    with running(command, tmp_path / "first.log", first):
        PATIENT(reported)
        key = PATIENT(checkpointed)
    assert read_job_result(store, uid, "init") is None
    state = json.loads(store.get(key))
    state["metrics"]["seconds"] = MARK
    store.put(key, json.dumps(state).encode())

    second = environment(minio_server, redis_settings, progress_reader, init_config(tmp_path, 2, uid))
    with running(command, tmp_path / "second.log", second) as process:
        assert process.wait(600) == 0, (tmp_path / "second.log").read_text()
    result = read_job_result(store, uid, "init")
    assert result is not None
    assert result.parts_digest is not None
    manifest = read_model_manifest(store, result.model_digest or "")
    assert manifest.metrics["seconds"] > MARK, "the second attempt goes on from the first one's newest checkpoint"
    assert store.list(prefix) == []
    last = progress_reader.latest(uid, ["init"]).by_source["init"]
    assert (last.epoch, last.epochs) == (EPOCHS, EPOCHS)
