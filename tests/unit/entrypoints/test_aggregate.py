"""The aggregator Job: commits one result, and only one, whatever happened before."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation, surroundings
from umim.artifacts.manifests import manifest_bytes, read_job_result
from umim.artifacts.memory import MemoryStore
from umim.entrypoints.aggregate import aggregate_once, main
from umim.entrypoints.runner import run_job
from umim.training.reporter import Clock

SITE = "hospital-a.x"


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(MemoryStore(), tmp_path / "federation")
    made.start({"w": torch.zeros(2)})
    made.commit(SITE, {"w": torch.ones(2)})
    return made


def test_the_result_is_committed_and_the_work_folder_is_left_empty(federation: Federation, tmp_path: Path) -> None:
    aggregate_once(federation.store, federation.config(), surroundings())
    result = read_job_result(federation.store, UID, "aggregate")
    assert result is not None
    assert result.model_digest == federation.updates[0].digest
    assert list(Path(federation.config().work_path).iterdir()) == []


def test_a_committed_result_is_not_computed_again(federation: Federation, tmp_path: Path) -> None:
    aggregate_once(federation.store, federation.config(), surroundings())
    federation.store.delete_prefix(f"rounds/{UID}/sites/")
    aggregate_once(federation.store, federation.config(attempt=2), surroundings())
    result = read_job_result(federation.store, UID, "aggregate")
    assert result is not None
    assert result.model_digest is not None


def test_too_few_updates_are_a_result_too(federation: Federation, tmp_path: Path) -> None:
    aggregate_once(federation.store, federation.config(quorum=2), surroundings())
    result = read_job_result(federation.store, UID, "aggregate")
    assert result is not None
    assert result.model_digest is None
    assert "quorum is 2" in result.message


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"UMIM_CONFIG": "{"}, 78, "UMIM_CONFIG: document: Invalid JSON"),
        ({"UMIM_CONFIG": ""}, 78, "environment variable UMIM_CONFIG must be set"),
        ({"UMIM_S3_BUCKET": ""}, 78, "environment variable UMIM_S3_BUCKET must be set"),
        ({"UMIM_S3_ENDPOINT": "store"}, 78, "UMIM_S3_ENDPOINT='store' must be a URL"),
    ],
)
def test_a_bad_environment_ends_with_a_sentence_and_the_code_of_a_configuration_error(
    federation: Federation, tmp_path: Path, change: dict[str, str], code: int, message: str
) -> None:
    env = {
        "UMIM_CONFIG": manifest_bytes(federation.config()).decode(),
        "UMIM_S3_ENDPOINT": "http://127.0.0.1:1",
        "UMIM_S3_BUCKET": "umim",
        "UMIM_S3_ACCESS_KEY": "key",
        "UMIM_S3_SECRET_KEY": "secret",
        **change,
    }
    log = tmp_path / "termination-log"
    assert run_job(partial(main, clock=Clock()), "test", env, log) == code
    assert message in log.read_text()
