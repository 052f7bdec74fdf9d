"""The hospital's side of its Job: no policy, no training; whatever leaves is noted before it does."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.entrypoints.test_train_site import changed, publish_parent, write_data
from tests.unit.training.parts import NOW, around, clock, site_config
from umim import contract
from umim.api.artifacts import UpdateManifest
from umim.api.jobs import SiteJobConfig
from umim.artifacts.manifests import read_update_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.signing import Signer, attest
from umim.entrypoints.gate import Gate, Mounts, read_policy
from umim.entrypoints.train_site import main, train_once
from umim.errors import PolicyError, StoreError, WindowClosedError
from umim.training.runtime import Runtime


@pytest.fixture
def config(tmp_path: Path) -> SiteJobConfig:
    """As the operator sends it: paths are those of the container."""
    data = {"path": "/data/images.npz", "format": "npz", "task": "classification"}
    return changed(site_config(tmp_path), data=data, workPath=contract.WORK_MOUNT)


def write_policy(folder: Path, **spec: Any) -> Path:
    """Write the hospital's policy as its ConfigMap would be mounted."""
    body = {
        "namespace": "hospital-a",
        "name": "radiology",
        "spec": {
            "federations": ["federation"],
            "data": {"claimName": "images", "path": "images.npz", "format": "npz"},
            "workClaimName": "work",
            **spec,
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / contract.POLICY_FILE).write_text(json.dumps(body))
    return folder


def mounts(tmp_path: Path, **spec: Any) -> Mounts:
    return Mounts(write_policy(tmp_path / "policy", **spec), tmp_path / "signing", tmp_path / "work")


def open_gate(config: SiteJobConfig, tmp_path: Path, **spec: Any) -> Gate:
    return Gate.open(config, 0, mounts(tmp_path, **spec), lambda: NOW)


def test_without_a_policy_nothing_is_trained(config: SiteJobConfig, tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"no .*hospital.json: .* ConfigMap umim-policy-NAME of its namespace.* nothing is trained"
    ):
        Gate.open(config, 0, Mounts(tmp_path, tmp_path, tmp_path), lambda: NOW)


def test_a_job_refuses_to_start_without_the_policy_that_its_hospital_mounts(
    config: SiteJobConfig, tmp_path: Path
) -> None:
    assert not Path(contract.POLICY_MOUNT).exists()
    with pytest.raises(PolicyError, match=contract.POLICY_MOUNT):
        main({"UMIM_CONFIG": config.model_dump_json(by_alias=True, exclude_none=True)}, clock())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ('{"namespace": "a", "name": "b"}', "spec: Field required"),
        (
            '{"namespace": "a", "name": "b", "spec": {"federations": [], "data": {"claimName": "i", "format": "npz"}, '
            '"workClaimName": "w", "privacy": {"noiseMultiplier": 1}}}',
            "spec.privacy.clipNorm: privacy.noiseMultiplier above 0 needs privacy.clipNorm",
        ),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused_by_its_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / contract.POLICY_FILE
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_policy(path)
    assert message in str(caught.value)


def test_a_job_that_is_looser_than_the_policy_is_refused(config: SiteJobConfig, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"privacy.clipNorm is None, the hospital's policy has 1.0"):
        open_gate(config, tmp_path, privacy={"clipNorm": 1.0})


def test_a_job_outside_the_time_window_does_not_begin(config: SiteJobConfig, tmp_path: Path) -> None:
    with pytest.raises(WindowClosedError):
        open_gate(config, tmp_path, timeWindows=[{"opens": "20:00", "closes": "21:00"}])


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "work/audit/hospital-a.radiology.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def here(config: SiteJobConfig, tmp_path: Path) -> SiteJobConfig:
    """The same Job with paths of this machine, once the gate has let it begin."""
    data = config.data.model_copy(update={"path": str(write_data(tmp_path / "data.npz"))})
    return config.model_copy(update={"data": data, "work_path": str(tmp_path / "work")})


def test_what_leaves_is_noted_before_and_after(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    noted: list[int] = []

    class Watched(MemoryStore):
        def upload(self, path: Path, key: str) -> str:
            if "/sites/" in key:
                noted.append(len(lines(tmp_path)))
            return super().upload(path, key)

    store, gate = Watched(), open_gate(config, tmp_path)
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    train_once(store, job, around(runtime), gate)
    manifest = read_update_manifest(store, job.round_uid, job.site, 1)
    assert manifest is not None
    assert noted == [2]  # both intents were on disk before the first byte left
    found = [(line["event"], line["kind"], line.get("sizeBytes")) for line in lines(tmp_path)]
    size = manifest.file.size_bytes
    assert found == [
        ("intent", "update", size),
        ("intent", "manifest", None),
        ("done", "update", size),
        ("done", "manifest", None),
    ]
    update = lines(tmp_path)[0]
    assert (update["digest"], update["key"]) == (manifest.file.digest, manifest.file.key)
    assert (update["round"], update["roundUid"], update["attempt"]) == ("federation/r", "uid-1", 1)
    assert update["time"] == "2026-01-02T03:04:05Z"


def test_the_record_is_on_the_disk_before_the_first_byte_leaves(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        story.append("synced")

    class Watched(MemoryStore):
        def upload(self, path: Path, key: str) -> str:
            story.append("left")
            return super().upload(path, key)

    store, gate = Watched(), open_gate(config, tmp_path)
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    monkeypatch.setattr("umim.artifacts.audit.os.fsync", fsync)
    sealed = gate.seal

    def seal(manifest: UpdateManifest) -> UpdateManifest:
        story.clear()
        return sealed(manifest)

    monkeypatch.setattr(gate, "seal", seal)
    train_once(store, job, around(runtime), gate)
    assert story[:3] == ["synced", "synced", "left"]  # the file, its folder, then the update


def test_where_nothing_can_be_noted_nothing_leaves(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    store, gate = MemoryStore(), open_gate(config, tmp_path)
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    (tmp_path / "work").mkdir()
    (tmp_path / "work/audit").write_text("in the way")
    with pytest.raises(OSError, match="audit"):
        train_once(store, job, around(runtime), gate)
    assert store.list("rounds/") == []


def test_an_upload_that_fails_leaves_its_intent(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    class Failing(MemoryStore):
        def upload(self, path: Path, key: str) -> str:
            if "/sites/" in key:
                raise StoreError("the store does not answer")
            return super().upload(path, key)

    store, gate = Failing(), open_gate(config, tmp_path)
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    with pytest.raises(StoreError):
        train_once(store, job, around(runtime), gate)
    assert [line["event"] for line in lines(tmp_path)] == ["intent", "intent"]


def test_the_window_may_close_before_the_update_leaves(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    store, times = MemoryStore(), [NOW, datetime(2026, 1, 2, 4, 0, tzinfo=UTC)]
    policy = mounts(tmp_path, timeWindows=[{"opens": "03:00", "closes": "04:00"}])
    gate = Gate.open(config, 0, policy, lambda: times.pop(0))
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    with pytest.raises(WindowClosedError):
        train_once(store, job, around(runtime), gate)
    assert store.list("rounds/") == []


def write_key(tmp_path: Path, signer: Signer) -> None:
    (tmp_path / "signing").mkdir()
    (tmp_path / "signing" / contract.SIGNING_FILE).write_text(signer.to_pem())


def test_a_hospital_with_a_key_signs_what_leaves(
    config: SiteJobConfig, here: SiteJobConfig, runtime: Runtime, tmp_path: Path
) -> None:
    store, signer = MemoryStore(), Signer.new()
    write_key(tmp_path, signer)
    gate = open_gate(config, tmp_path, publicKey=signer.public_key)
    job = here.model_copy(update={"parent": publish_parent(store, tmp_path)})
    train_once(store, job, around(runtime), gate)
    manifest = read_update_manifest(store, job.round_uid, job.site, 1)
    assert manifest is not None
    attested = attest(manifest, signer.public_key)
    noted = [line["digest"] for line in lines(tmp_path) if line["kind"] == "manifest"]
    assert noted == [attested.manifest_digest] * 2


def test_without_its_private_key_a_hospital_with_a_public_one_trains_nothing(
    config: SiteJobConfig, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match=r"has a publicKey, so its Jobs must sign: .*ed25519.pem is no private key"):
        open_gate(config, tmp_path, publicKey=Signer.new().public_key)


def test_a_private_key_that_the_operator_has_put_in_its_place_is_refused(config: SiteJobConfig, tmp_path: Path) -> None:
    own, planted = Signer.new(), Signer.new()
    write_key(tmp_path, planted)
    with pytest.raises(PolicyError, match=r"private key in .* belongs to publicKey .*, the hospital's policy has"):
        open_gate(config, tmp_path, publicKey=own.public_key)
