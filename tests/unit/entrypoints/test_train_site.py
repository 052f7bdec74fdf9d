"""The site's Job against a store in memory and real npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.training.parts import ARCHITECTURE, NOW, SIZE, Kill, around, clock, dataset, site_config
from umim import contract
from umim.api.base import ModelReference
from umim.api.globalmodel import Contributor
from umim.api.hospital import PrivacySpec
from umim.api.jobs import SiteJobConfig
from umim.api.privacy import DifferentialPrivacyFloor
from umim.artifacts.manifests import read_update_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model, fetch_update, publish_model
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.entrypoints.runner import run_job
from umim.entrypoints.train_site import main, train_once
from umim.errors import ArtifactError, ConfigError, DataError, NotFoundError, PrivacyBudgetError
from umim.models.encoder import create_encoder
from umim.training.runtime import Runtime
from umim.training.site import encoder_tensors
from umim.training.updates import Residuals


def write_data(path: Path) -> Path:
    data = dataset()
    assert data.targets is not None
    np.savez(path, train_images=data.images[:, 0], train_labels=data.targets, train_groups=data.patients)
    return path


def publish_parent(store: MemoryStore, folder: Path, architecture: str = ARCHITECTURE) -> ModelReference:
    path = folder / "start.safetensors"
    write_safetensors(encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed=7)), path)
    digest = publish_model(
        store,
        path,
        architecture=architecture,
        image_size=SIZE,
        strategy="init-random",
        round_uid="uid-0",
        seed=7,
        software={},
        created=NOW,
    )
    return ModelReference(name="base", digest=digest)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def config(tmp_path: Path, store: MemoryStore) -> SiteJobConfig:
    data = {"path": str(write_data(tmp_path / "data.npz")), "format": "npz", "task": "classification"}
    return changed(site_config(tmp_path / "work"), data=data, parent=publish_parent(store, tmp_path).to_dict())


def changed(config: SiteJobConfig, **fields: Any) -> SiteJobConfig:
    return SiteJobConfig.model_validate(config.to_dict() | fields)


def update(store: MemoryStore, config: SiteJobConfig, path: Path) -> dict[str, torch.Tensor]:
    fetch_update(store, config.round_uid, config.site, config.attempt, path)
    return read_safetensors(path)


def test_the_update_is_committed_with_its_manifest(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    train_once(store, config, around(runtime))
    manifest = fetch_update(store, config.round_uid, config.site, config.attempt, tmp_path / "u")
    assert (manifest.samples, manifest.architecture, manifest.image_size) == (16, ARCHITECTURE, SIZE)
    assert manifest.parent_digest == config.parent.digest
    assert manifest.created == NOW
    assert {"loss_before", "loss_after", "accuracy_after"} <= manifest.metrics.keys()
    assert manifest.software["torch"].split("+")[0] == torch.__version__.split("+")[0]
    trained, parent = read_safetensors(tmp_path / "u"), fetch_tensors(store, config, tmp_path / "p")
    assert {name: value.shape for name, value in trained.items()} == {name: v.shape for name, v in parent.items()}
    assert any(not torch.equal(trained[name], parent[name]) for name in parent)


def fetch_tensors(store: MemoryStore, config: SiteJobConfig, path: Path) -> dict[str, torch.Tensor]:
    fetch_model(store, config.parent.digest, path)
    return read_safetensors(path)


def test_the_same_job_twice_gives_the_same_digest(store: MemoryStore, config: SiteJobConfig, runtime: Runtime) -> None:
    digests = set()
    for attempt in (1, 2):
        again = changed(config, attempt=attempt)
        train_once(store, again, around(runtime))
        manifest = read_update_manifest(store, again.round_uid, again.site, attempt)
        assert manifest is not None
        digests.add(manifest.file.digest)
    assert len(digests) == 1


def test_nothing_is_left_in_the_work_folder_after_the_commit(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    train_once(store, config, around(runtime))
    assert list(Path(config.work_path).iterdir()) == []


def test_a_committed_attempt_is_not_trained_again(store: MemoryStore, config: SiteJobConfig, runtime: Runtime) -> None:
    train_once(store, config, around(runtime))
    Path(config.data.path).unlink()
    train_once(store, config, around(runtime))


def test_clipping_holds_for_what_leaves(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    strict = changed(config, privacy=PrivacySpec(clip_norm=0.01).to_dict())
    train_once(store, strict, around(runtime))
    parent, sent = fetch_tensors(store, strict, tmp_path / "p"), update(store, strict, tmp_path / "u")
    norm = sum(float((sent[name] - parent[name]).double().square().sum()) for name in parent) ** 0.5
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_figures_stay_inside_where_the_hospital_says_so(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    quiet = changed(config, privacy=PrivacySpec(allowed_artifacts=["update"]).to_dict())
    train_once(store, quiet, around(runtime))
    manifest = read_update_manifest(store, quiet.round_uid, quiet.site, quiet.attempt)
    assert manifest is not None
    assert manifest.metrics == {}


def private(config: SiteJobConfig, **floor: Any) -> SiteJobConfig:
    floor = {"min_noise_multiplier": 1.0, **floor}
    return changed(config, privacy=PrivacySpec(differential_privacy=DifferentialPrivacyFloor(**floor)).to_dict())


def test_a_private_update_says_how_private_it_is_and_no_figures_leave(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    train_once(store, private(config), around(runtime))
    manifest = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    assert manifest is not None
    assert manifest.metrics == {}
    record = manifest.differential_privacy
    assert record is not None
    assert (record.noise_multiplier, record.sample_rate, record.steps) == (1.0, 0.5, 4)
    assert record.epsilon_spent == record.epsilon
    # The ledger stays when the checkpoints go.
    assert [path.name for path in Path(config.work_path).iterdir()] == ["privacy"]


def test_what_a_hospital_has_spent_in_all_stays_inside_where_no_metrics_may_leave(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    privacy = PrivacySpec(
        allowed_artifacts=["update"], differential_privacy=DifferentialPrivacyFloor(min_noise_multiplier=1.0)
    )
    train_once(store, changed(config, privacy=privacy.to_dict()), around(runtime))
    manifest = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    assert manifest is not None
    assert manifest.differential_privacy is not None
    assert manifest.differential_privacy.epsilon_spent is None


def test_a_job_beyond_the_budget_of_epsilon_ends_with_its_own_code_and_says_what_is_spent(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    poor = private(config, epsilon_budget=0.1)
    code = run_job(lambda _: train_once(store, poor, around(runtime)), "test", {}, tmp_path / "log")
    assert code == PrivacyBudgetError.exit_code
    assert "epsilonBudget of the Hospital is 0.1 at delta 1e-05, 0.000 is spent" in (tmp_path / "log").read_text()
    assert read_update_manifest(store, config.round_uid, config.site, config.attempt) is None


def test_a_hospital_that_lets_no_update_out_is_refused(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    closed = changed(config, privacy=PrivacySpec(allowed_artifacts=["metrics"]).to_dict())
    with pytest.raises(ConfigError, match=r"allowedArtifacts .* without update the hospital takes part in no round"):
        train_once(store, closed, around(runtime))


def test_a_parent_that_is_missing_or_changed_is_refused(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    with pytest.raises(NotFoundError):
        train_once(store, changed(config, parent={"name": "x", "digest": "1" * 64}), around(runtime))
    key = contract.model_key(config.parent.digest)
    content = bytearray(store.get(key))
    content[-1] ^= 1
    store.put(key, bytes(content))
    with pytest.raises(ArtifactError, match="sha256"):
        train_once(store, config, around(runtime))


def test_a_parent_of_another_architecture_is_refused(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    with pytest.raises(ArtifactError, match=r"parent model base is test_vit for 32 pixels, the round wants test_vit2"):
        train_once(store, changed(config, architecture="test_vit2"), around(runtime))


def test_unusable_data_commits_nothing(store: MemoryStore, config: SiteJobConfig, runtime: Runtime) -> None:
    Path(config.data.path).write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"data.npz cannot be read as an npz archive"):
        train_once(store, config, around(runtime))
    assert store.list("rounds/") == []


def next_round(store: MemoryStore, config: SiteJobConfig, folder: Path, site: str | None = None) -> SiteJobConfig:
    """Return the round after a site's update: from a model with other values that names the update, by any site."""
    manifest = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    assert manifest is not None
    path = folder / "next.safetensors"
    write_safetensors(encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed=8)), path)
    digest = publish_model(
        store,
        path,
        architecture=ARCHITECTURE,
        image_size=SIZE,
        strategy="fedavg",
        round_uid=config.round_uid,
        seed=7,
        software={},
        created=NOW,
        contributors=[
            Contributor(site=site or config.site, update_digest=manifest.file.digest, samples=manifest.samples)
        ],
    )
    return changed(config, roundUid="uid-2", parent={"name": "next", "digest": digest})


def digest_of(store: MemoryStore, config: SiteJobConfig, runtime: Runtime) -> str:
    train_once(store, config, around(runtime))
    manifest = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    assert manifest is not None
    assert manifest.encoding == config.encoding.format
    return manifest.file.digest


def residuals(config: SiteJobConfig) -> list[Path]:
    folder = Path(config.work_path) / "residuals/federation/hospital-a.radiology" / f"{ARCHITECTURE}-{SIZE}"
    return sorted(folder.iterdir())


def test_the_next_round_adds_what_the_encoding_lost(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    first = changed(config, encoding={"format": "int8"})
    lost = digest_of(store, first, runtime)
    assert [path.stem for path in residuals(first)] == [lost]
    second = next_round(store, first, tmp_path)
    with_feedback = digest_of(store, changed(second, attempt=1), runtime)
    assert digest_of(store, changed(second, attempt=2), runtime) == with_feedback
    elsewhere = changed(second, attempt=3, workPath=str(tmp_path / "another volume"))
    assert digest_of(store, elsewhere, runtime) != with_feedback


def test_a_model_that_another_round_published_first_still_holds_the_sites_own_update(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    first = changed(config, encoding={"format": "int8"})
    digest_of(store, first, runtime)
    second = next_round(store, first, tmp_path, site="elsewhere.radiology")
    with_feedback = digest_of(store, changed(second, attempt=1), runtime)
    without = changed(second, attempt=2, workPath=str(tmp_path / "another volume"))
    assert digest_of(store, without, runtime) != with_feedback


@pytest.mark.parametrize("moment", ["keep", "remove_old"])
def test_a_job_killed_around_the_commit_loses_no_residual(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    config = changed(config, encoding={"format": "top-k", "density": 0.1})

    def kill(*_: object) -> None:
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(Residuals, moment, kill)
        with pytest.raises(Kill):
            train_once(store, config, around(runtime))
    committed = read_update_manifest(store, config.round_uid, config.site, config.attempt)
    if moment == "keep":
        assert committed is None, "what was lost must be safe before anybody can count the update"
    else:
        assert committed is not None
        assert [path.stem for path in residuals(config)] == [committed.file.digest], "nobody runs the Job again"
    digest = digest_of(store, config, runtime)
    assert [path.stem for path in residuals(config)] == [digest]
    assert [path.name for path in Path(config.work_path).iterdir()] == ["residuals"]


def test_an_update_of_full_values_keeps_nothing_at_the_site(
    store: MemoryStore, config: SiteJobConfig, runtime: Runtime
) -> None:
    digest_of(store, config, runtime)
    assert list(Path(config.work_path).iterdir()) == []


@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ({}, 78, "UMIM_CONFIG must be set"),
        ({"UMIM_CONFIG": "{}"}, 78, "UMIM_CONFIG: roundNamespace"),
        ({"UMIM_CONFIG": "not JSON"}, 78, "UMIM_CONFIG"),
    ],
)
def test_a_bad_configuration_ends_with_its_exit_code_and_one_sentence(
    tmp_path: Path, env: dict[str, str], code: int, message: str
) -> None:
    log = tmp_path / "termination-log"
    assert run_job(lambda given: main(given, clock()), "umim-site", env, log) == code
    assert message in log.read_text()
