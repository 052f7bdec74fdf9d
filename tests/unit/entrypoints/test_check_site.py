"""``helm test`` of a hospital: what would keep a Job from training is found before a round comes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hack.testenv.images import write_textures
from tests.unit.entrypoints.test_gate import write_policy
from umim import contract
from umim.artifacts.signing import Signer
from umim.entrypoints import check_site
from umim.entrypoints.gate import Mounts
from umim.errors import ConfigError, DataError, PolicyError


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounts:
    """The volumes of a hospital at which all is well."""
    for folder in ("data", "work", "signing"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(contract, "DATA_MOUNT", str(tmp_path / "data"))
    write_textures(tmp_path / "data/images.npz", 8, 0)
    return Mounts(write_policy(tmp_path / "policy"), tmp_path / "signing", tmp_path / "work")


def test_a_hospital_at_which_all_is_well_passes_and_leaves_nothing(
    mounts: Mounts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    check_site.main({}, mounts)
    assert "the hospital consents to federation" in caplog.text
    assert "the first image of format npz can be read" in caplog.text
    assert list(mounts.work.iterdir()) == []


def test_a_hospital_that_consents_to_nobody_is_told_so(mounts: Mounts, caplog: pytest.LogCaptureFixture) -> None:
    write_policy(mounts.policy, federations=[])
    check_site.main({}, mounts)
    assert "consents to nobody yet" in caplog.text


def test_a_missing_policy_fails(mounts: Mounts) -> None:
    (mounts.policy / contract.POLICY_FILE).unlink()
    with pytest.raises(PolicyError, match="ConfigMap umim-policy-NAME"):
        check_site.main({}, mounts)


def test_a_key_that_is_not_the_policys_fails(mounts: Mounts) -> None:
    write_policy(mounts.policy, publicKey=Signer.new().public_key)
    with pytest.raises(PolicyError, match="so its Jobs must sign"):
        check_site.main({}, mounts)


def test_images_that_are_missing_fail(mounts: Mounts) -> None:
    write_policy(mounts.policy, data={"claimName": "images", "path": "elsewhere.npz", "format": "npz"})
    with pytest.raises(DataError, match="elsewhere"):
        check_site.main({}, mounts)


def test_images_of_another_format_fail(mounts: Mounts) -> None:
    write_policy(mounts.policy, data={"claimName": "images", "format": "nifti"})
    with pytest.raises(DataError):
        check_site.main({}, mounts)


def test_a_work_volume_that_is_missing_fails_with_what_to_do(mounts: Mounts) -> None:
    mounts.work.rmdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        check_site.main({}, mounts)
