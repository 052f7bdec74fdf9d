"""The chain from a model down to its start: whatever was changed in it is found, and by whom it is vouched for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.artifacts.test_signing import NOW, update
from umim import contract
from umim.api.artifacts import Attestation, ModelManifest
from umim.api.base import ModelReference
from umim.api.globalmodel import Contributor
from umim.artifacts.chain import FolderModels, Link, StoreModels, read_trust, verify_chain
from umim.artifacts.manifests import manifest_bytes, read_model_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import publish_model
from umim.artifacts.parts import write_parts
from umim.artifacts.signing import Signer, attest
from umim.artifacts.writer import write_safetensors
from umim.cli.pull import pull_model
from umim.errors import ArtifactError, ConfigError, NotFoundError

SITE = "hospital-a.radiology"
FEDERATION, HOSPITAL, STRANGER = Signer.new(), Signer.new(), Signer.new()
TRUST = {"federation": [STRANGER.public_key, FEDERATION.public_key], SITE: [HOSPITAL.public_key]}


class Chain:
    """A start model and two rounds, each with one hospital."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.folder = folder
        self.digests: list[str] = []
        for number in range(3):
            self._publish(number)

    def _publish(self, number: int) -> None:
        parent = ModelReference(name="p", digest=self.digests[-1]) if self.digests else None
        path = write_safetensors({"w": torch.full((2,), float(number))}, self.folder / "model").path
        parts = write_parts({"mim.w": torch.full((2,), float(number))}, [], self.folder / "parts") if number else None
        fields: dict[str, Any] = {"strategy": "init-random"}
        if parent is not None:
            attested = attestation(f"u{number}", parent.digest)
            contributor = Contributor(site=SITE, update_digest=attested.update_digest, samples=attested.samples)
            fields = {"strategy": "fedavg", "contributors": [contributor], "attestations": [attested]}
        self.digests.append(
            publish_model(
                self.store,
                path,
                architecture="vit",
                image_size=64,
                round_uid=f"u{number}",
                seed=0,
                software={},
                created=NOW,
                parent=parent,
                parts=parts,
                seal=FEDERATION.sign_model,
                **fields,
            )
        )

    @property
    def newest(self) -> str:
        return self.digests[-1]

    def verify(self, trust: Any = None) -> list[Link]:
        return verify_chain(StoreModels(self.store), self.newest, TRUST if trust is None else trust)

    def edit(self, number: int, change: Callable[[ModelManifest], ModelManifest], signer: Signer | None = None) -> None:
        """Replace a model's manifest, signed anew where there is a signer."""
        changed = change(read_model_manifest(self.store, self.digests[number]))
        changed = changed if signer is None else signer.sign_model(changed)
        self.store.put(contract.model_manifest_key(self.digests[number]), manifest_bytes(changed))


def attestation(round_uid: str, parent: str, signer: Signer = HOSPITAL, **changes: Any) -> Attestation:
    manifest = update(round_uid=round_uid, parent_digest=parent, **changes)
    return attest(signer.sign_update(manifest), signer.public_key)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_an_intact_chain_is_vouched_for_down_to_its_start(chain: Chain) -> None:
    found = chain.verify()
    assert [link.manifest.file.digest for link in found] == chain.digests[::-1]
    assert [(link.damage, link.gaps) for link in found] == [((), ())] * 3


@pytest.mark.parametrize("number", [0, 1, 2])
def test_changed_bytes_of_any_model_of_the_chain_are_found(chain: Chain, number: int) -> None:
    key = contract.model_key(chain.digests[number])
    content = bytearray(chain.store.get(key))
    content[-1] ^= 1
    chain.store.put(key, bytes(content))
    damage = chain.verify()[2 - number].damage
    assert len(damage) == 1
    assert damage[0].startswith("the tensors file has sha256 ")


def test_missing_tensors_are_found(chain: Chain) -> None:
    chain.store.delete(contract.model_key(chain.digests[0]))
    assert chain.verify()[2].damage[0].startswith("the tensors file is missing")


def test_changed_parts_are_found(chain: Chain) -> None:
    parts = read_model_manifest(chain.store, chain.newest).parts
    assert parts is not None
    chain.store.put(contract.parts_key(chain.newest, parts.digest), b"other")
    assert chain.verify()[0].damage[0].startswith("the parts file has sha256 ")


STRANGERS = Contributor(site="hospital-b.x", update_digest="9" * 64, samples=5)
EDITS: dict[str, dict[str, Any]] = {
    "figures": {"metrics": {"loss_after": 0.0}},
    "a contributor more": {"contributors": [Contributor(site=SITE, update_digest="a" * 64, samples=10), STRANGERS]},
    "another parent": {"parent": ModelReference(name="p", digest="8" * 64)},
    "another round": {"round_uid": "u9"},
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_manifest_is_found_by_the_federations_signature(chain: Chain, what: str) -> None:
    chain.edit(1, lambda manifest: manifest.model_copy(update=EDITS[what]))
    if what == "another parent":
        with pytest.raises(NotFoundError):
            chain.verify()
        return
    assert any(f"the manifest of model {chain.digests[1]} is not what key" in text for text in chain.verify()[1].damage)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another round": ({"round_uid": "u9"}, f"{SITE} attests roundUid u2, the manifest says u9"),
    "another update": (
        {"contributors": [Contributor(site=SITE, update_digest="9" * 64, samples=10)]},
        f"{SITE} attests updateDigest {'a' * 64}, the manifest says {'9' * 64}",
    ),
    "more samples": (
        {"contributors": [Contributor(site=SITE, update_digest="a" * 64, samples=99)]},
        f"{SITE} attests samples 10, the manifest says 99",
    ),
    "the hospital left out": ({"contributors": []}, f"{SITE} attests an update, but is no contributor"),
    "no parent": ({"parent": None}, "strategy is fedavg, but the model has no parent"),
    "a start with a parent": ({"strategy": "init-mim"}, "strategy is init-mim, but the model has a parent"),
}


@pytest.mark.parametrize("lie", LIES)
def test_even_the_federation_cannot_say_what_a_hospital_has_not_attested(chain: Chain, lie: str) -> None:
    fields, message = LIES[lie]
    chain.edit(2, lambda manifest: manifest.model_copy(update=fields), FEDERATION)
    assert message in chain.verify()[0].damage


def test_a_forged_attestation_is_damage(chain: Chain) -> None:
    real = attestation("u2", chain.digests[1])
    forged = real.model_copy(update={"manifest_digest": "7" * 64})
    chain.edit(2, lambda manifest: manifest.model_copy(update={"attestations": [forged]}), FEDERATION)
    assert any(f"the update of {SITE} is not what key" in text for text in chain.verify()[0].damage)


def test_an_attestation_of_another_round_cannot_be_replayed(chain: Chain) -> None:
    old = read_model_manifest(chain.store, chain.digests[1]).attestations
    chain.edit(2, lambda manifest: manifest.model_copy(update={"attestations": old}), FEDERATION)
    damage = " ".join(chain.verify()[0].damage)
    assert f"{SITE} attests roundUid u1, the manifest says u2" in damage
    assert f"{SITE} attests parentDigest {chain.digests[0]}" in damage


def test_what_nobody_trusted_has_signed_is_a_gap(chain: Chain) -> None:
    chain.edit(2, lambda manifest: manifest.model_copy(update={"signature": None, "attestations": []}))
    newest, middle, start = chain.verify()
    assert newest.gaps == ("federation has signed nothing", f"{SITE} has signed nothing")
    assert newest.damage == middle.gaps == start.gaps == ()
    only_federation = chain.verify({"federation": TRUST["federation"]})
    assert "which is not trusted for it" in only_federation[1].gaps[0]


def test_a_trusted_key_counts_for_its_owner_alone(chain: Chain) -> None:
    mixed = {"federation": [HOSPITAL.public_key], SITE: [FEDERATION.public_key]}
    assert len(chain.verify(mixed)[0].gaps) == 2


def test_a_circle_of_parents_ends(chain: Chain) -> None:
    circle = {"parent": ModelReference(name="p", digest=chain.newest), "strategy": "fedavg"}
    chain.edit(0, lambda manifest: manifest.model_copy(update=circle))
    with pytest.raises(ArtifactError, match="is its own ancestor"):
        chain.verify()


def test_pulled_folders_are_checked_without_a_store(chain: Chain, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in (2, 1, 0)]
    for folder, digest in zip(folders, chain.digests[::-1], strict=True):
        pull_model(chain.store, digest, folder)
    models = FolderModels(folders)
    assert models.digests[0] == chain.newest
    found = verify_chain(models, chain.newest, TRUST)
    assert [(link.damage, link.gaps) for link in found] == [((), ())] * 3
    (folders[1] / contract.MODEL_FILE).write_bytes(b"other")
    assert verify_chain(models, chain.newest, TRUST)[1].damage
    (folders[0] / "parts.safetensors").write_bytes(b"other")
    assert verify_chain(models, chain.newest, TRUST)[0].damage
    with pytest.raises(NotFoundError, match="is in none of the folders"):
        verify_chain(FolderModels(folders[:2]), chain.newest, TRUST)
    with pytest.raises(NotFoundError, match=r"manifest.json"):
        FolderModels([tmp_path / "nothing"])


def test_trusted_keys_are_lines_of_owner_and_key(tmp_path: Path) -> None:
    path = tmp_path / "trust"
    path.write_text(f"# ours\nfederation {FEDERATION.public_key}  # 2026\n\n{SITE} {HOSPITAL.public_key}\n")
    assert read_trust(path) == {"federation": [FEDERATION.public_key], SITE: [HOSPITAL.public_key]}
    for text, message in (
        ("federation", "line 1: 'federation' must be"),
        ("a b", "line 1: 'b' is no Ed25519 public key"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_trust(path)
    with pytest.raises(ConfigError, match="there is no"):
        read_trust(tmp_path / "nothing")
