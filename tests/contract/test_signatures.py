"""Signatures survive every store, and a chain is checked in every store."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch

from tests.unit.artifacts.test_signing import HOSPITAL, NOW
from umim import contract
from umim.artifacts.chain import StoreModels, verify_chain
from umim.artifacts.manifests import read_update_manifest
from umim.artifacts.models import publish_model, publish_update
from umim.artifacts.signing import SignatureError, Signer, attest
from umim.artifacts.store import ObjectStore
from umim.artifacts.writer import write_safetensors

SITE = "hospital-a.radiology"


def test_a_signed_update_is_attested_from_the_store_and_a_changed_one_is_not(
    store: ObjectStore, tmp_path: Path
) -> None:
    uid = uuid.uuid4().hex
    path = write_safetensors({"w": torch.ones(2)}, tmp_path / "update").path
    publish_update(
        store,
        path,
        round_uid=uid,
        site=SITE,
        attempt=1,
        parent_digest="0" * 64,
        architecture="vit",
        image_size=64,
        samples=10,
        metrics={"loss_after": 0.1, "loss_before": 1e-9},
        seed=0,
        software={"umim": "0"},
        created=NOW,
        seal=HOSPITAL.sign_update,
    )
    manifest = read_update_manifest(store, uid, SITE, 1)
    assert manifest is not None
    assert attest(manifest, HOSPITAL.public_key).update_digest == manifest.file.digest
    key = contract.update_manifest_key(uid, SITE, 1)
    store.put(key, store.get(key).replace(b'"samples": 10', b'"samples": 99'))
    changed = read_update_manifest(store, uid, SITE, 1)
    assert changed is not None
    with pytest.raises(SignatureError):
        attest(changed, HOSPITAL.public_key)


def test_a_model_is_verified_where_it_lies(store: ObjectStore, tmp_path: Path) -> None:
    federation = Signer.new()
    path = write_safetensors({"w": torch.rand(70_000)}, tmp_path / "model").path
    digest = publish_model(
        store,
        path,
        architecture="vit",
        image_size=64,
        strategy="init-random",
        round_uid="u",
        seed=0,
        software={},
        created=NOW,
        seal=federation.sign_model,
    )
    (link,) = verify_chain(StoreModels(store), digest, {"federation": [federation.public_key]})
    assert (link.damage, link.gaps) == ((), ())
    store.put(contract.model_key(digest), b"other bytes")
    (link,) = verify_chain(StoreModels(store), digest, {"federation": [federation.public_key]})
    assert len(link.damage) == 1
