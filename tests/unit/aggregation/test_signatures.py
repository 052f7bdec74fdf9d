"""A hospital with a key: only what it signed for this round goes into the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation, surroundings
from umim import contract
from umim.api.artifacts import Exclusion, ModelManifest
from umim.artifacts.manifests import manifest_bytes, read_model_manifest, read_update_manifest
from umim.artifacts.signing import Signer, check_attestation, check_model
from umim.entrypoints.aggregate import aggregate

GOOD, BAD = "hospital-a.good", "hospital-b.bad"
KEYS = {GOOD: Signer.new(), BAD: Signer.new()}
FEDERATION = Signer.new()


def plain(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), value)}


def commit(federation: Federation, site: str, signer: Signer | None, **changes: Any) -> None:
    """Commit an update of a hospital with a key, signed by ``signer``."""
    if signer is not None:
        changes["seal"] = signer.sign_update
    federation.commit(site, plain(2.0), **changes)
    reference = federation.updates.pop()
    federation.updates.append(reference.model_copy(update={"public_key": KEYS[site].public_key}))


def started(federation: Federation) -> Federation:
    federation.start(plain())
    commit(federation, GOOD, KEYS[GOOD])
    return federation


def the_exclusion(federation: Federation) -> Exclusion:
    """Aggregate; the good site's update must have gone through."""
    result = federation.aggregate()
    assert result.model_digest is not None
    manifest = read_model_manifest(federation.store, result.model_digest)
    assert [one.site for one in manifest.contributors] == [GOOD]
    assert [one.site for one in manifest.attestations] == [GOOD]
    (found,) = result.exclusions
    return found


def test_signed_updates_go_through_and_the_model_keeps_what_was_attested(federation: Federation) -> None:
    started(federation)
    commit(federation, BAD, KEYS[BAD])
    result = aggregate(federation.store, federation.config(), surroundings(), FEDERATION)
    assert result.exclusions == []
    assert result.model_digest is not None
    manifest = read_model_manifest(federation.store, result.model_digest)
    assert [one.site for one in manifest.attestations] == [GOOD, BAD]
    for one, contributor in zip(manifest.attestations, manifest.contributors, strict=True):
        check_attestation(one, KEYS[one.site].public_key)
        assert (one.update_digest, one.samples) == (contributor.update_digest, contributor.samples)
        assert (one.round_uid, one.parent_digest) == (UID, federation.parent.digest)
    check_model(manifest, FEDERATION.public_key)


@pytest.mark.parametrize(
    ("signer", "message"), [(None, "carries no signature"), (Signer.new(), "it must be"), (KEYS[GOOD], "it must be")]
)
def test_an_update_that_is_not_signed_by_its_own_hospital_is_excluded(
    federation: Federation, signer: Signer | None, message: str
) -> None:
    started(federation)
    commit(federation, BAD, signer)
    found = the_exclusion(federation)
    assert (found.site, found.reason) == (BAD, "SignatureInvalid")
    assert message in found.message


def edit(federation: Federation, **fields: Any) -> None:
    key = contract.update_manifest_key(UID, BAD, 1)
    document = json.loads(federation.store.get(key))
    federation.store.put(key, json.dumps(document | fields).encode())


@pytest.mark.parametrize("fields", [{"samples": 10_000}, {"metrics": {"loss_after": 0.0}}, {"seed": 5}])
def test_a_manifest_that_was_changed_after_it_was_signed_is_excluded(
    federation: Federation, fields: dict[str, Any]
) -> None:
    started(federation)
    commit(federation, BAD, KEYS[BAD])
    edit(federation, **fields)
    found = the_exclusion(federation)
    assert (found.reason, "is not what key" in found.message) == ("SignatureInvalid", True)


def test_a_manifest_of_another_round_cannot_be_replayed(federation: Federation) -> None:
    started(federation)
    commit(federation, BAD, KEYS[BAD], round_uid="u0")
    old = read_update_manifest(federation.store, "u0", BAD, 1)
    assert old is not None
    file = old.file.model_copy(update={"key": contract.update_key(UID, BAD, 1)})
    federation.store.put(file.key, federation.store.get(old.file.key))
    key = contract.update_manifest_key(UID, BAD, 1)
    federation.store.put(key, manifest_bytes(old.model_copy(update={"file": file})))
    assert the_exclusion(federation).reason == "WrongRound"  # as it is
    federation.store.put(key, manifest_bytes(old.model_copy(update={"file": file, "round_uid": UID})))
    assert the_exclusion(federation).reason == "SignatureInvalid"  # with the round changed


def test_the_update_of_another_site_cannot_be_passed_off(federation: Federation) -> None:
    started(federation)
    commit(federation, BAD, None)
    stolen = read_update_manifest(federation.store, UID, GOOD, 1)
    assert stolen is not None
    file = stolen.file.model_copy(update={"key": contract.update_key(UID, BAD, 1)})
    passed_off = stolen.model_copy(update={"site": BAD, "file": file})
    federation.store.put(contract.update_manifest_key(UID, BAD, 1), manifest_bytes(passed_off))
    assert the_exclusion(federation).reason == "SignatureInvalid"


def test_a_hospital_without_a_key_needs_no_signature_and_attests_nothing(federation: Federation) -> None:
    federation.start(plain())
    federation.commit(GOOD, plain(2.0))
    federation.commit(BAD, plain(3.0), seal=KEYS[BAD].sign_update)
    result = federation.aggregate()
    assert result.exclusions == []
    manifest: ModelManifest = read_model_manifest(federation.store, str(result.model_digest))
    assert (manifest.attestations, manifest.signature) == ([], None)


def test_signatures_change_nothing_in_the_model(tmp_path: Path, federation: Federation) -> None:
    started(federation)
    signed = federation.aggregate().model_digest
    federation.updates = [one.model_copy(update={"public_key": None}) for one in federation.updates]
    assert federation.aggregate().model_digest == signed
