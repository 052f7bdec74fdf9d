"""Signatures hold for exactly what was signed, by exactly the key that signed."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from umim.api.artifacts import HeadArtifact, ModelManifest, TensorInfo, TensorsFile, UpdateManifest
from umim.api.globalmodel import Contributor
from umim.artifacts.manifests import canonical_bytes, manifest_bytes, parse_manifest
from umim.artifacts.signing import SignatureError, Signer, attest, check_attestation, check_model, key_id
from umim.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
HOSPITAL, OTHER = Signer.new(), Signer.new()


def file(digit: str = "a") -> TensorsFile:
    return TensorsFile(key="k", digest=digit * 64, size_bytes=3, tensors={"w": TensorInfo(shape=[2], dtype="F32")})


def update(**changes: Any) -> UpdateManifest:
    fields: dict[str, Any] = {
        "round_uid": "u1",
        "site": "hospital-a.radiology",
        "attempt": 1,
        "parent_digest": "c" * 64,
        "architecture": "vit",
        "image_size": 64,
        "file": file(),
        "head": HeadArtifact(task_name="t", task="classification", classes=["ä", "b"], file=file("b")),
        "samples": 10,
        "metrics": {"loss_before": 0.1, "loss_after": 1e-17},
        "seed": 0,
        "software": {"umim": "0"},
        "created": NOW,
    }
    return UpdateManifest(**(fields | changes))


def model(**changes: Any) -> ModelManifest:
    fields: dict[str, Any] = {
        "architecture": "vit",
        "image_size": 64,
        "strategy": "fedavg",
        "file": file(),
        "round_uid": "u1",
        "contributors": [Contributor(site="a.b", update_digest="d" * 64, samples=1)],
        "metrics": {"loss_after": 1.5},
        "seed": 0,
        "software": {},
        "created": NOW,
    }
    return ModelManifest(**(fields | changes))


def stored(manifest: UpdateManifest) -> UpdateManifest:
    """The manifest as it comes back from the store."""
    return parse_manifest(UpdateManifest, manifest_bytes(manifest), "key")


def test_a_signed_update_is_attested_after_its_way_through_the_store() -> None:
    signed = HOSPITAL.sign_update(update())
    found = attest(stored(signed), HOSPITAL.public_key)
    assert (found.site, found.update_digest, found.head_digest, found.samples) == (
        "hospital-a.radiology",
        "a" * 64,
        "b" * 64,
        10,
    )
    check_attestation(found, HOSPITAL.public_key)  # without the update, from a model's manifest


CHANGES: dict[str, dict[str, Any]] = {
    "round": {"round_uid": "u2"},
    "site": {"site": "hospital-b.x"},
    "attempt": {"attempt": 2},
    "parent": {"parent_digest": "e" * 64},
    "tensors": {"file": file("e")},
    "shapes": {"file": file().model_copy(update={"tensors": {}})},
    "head": {"head": None},
    "samples": {"samples": 11},
    "a figure": {"metrics": {"loss_before": 0.1, "loss_after": 2e-17}},
    "software": {"software": {"umim": "1"}},
    "time": {"created": datetime(2027, 1, 1, tzinfo=UTC)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_update_with_anything_changed_is_refused(what: str) -> None:
    forged = HOSPITAL.sign_update(update()).model_copy(update=CHANGES[what])
    with pytest.raises(SignatureError, match=r"hospital-\w.\w+ is not what key \w{16} signed"):
        attest(forged, HOSPITAL.public_key)


def test_an_update_without_a_signature_or_of_another_key_is_refused() -> None:
    with pytest.raises(SignatureError, match=r"manifest of hospital-a.radiology carries no signature"):
        attest(update(), HOSPITAL.public_key)
    with pytest.raises(SignatureError, match=f"signed with key {key_id(OTHER.public_key)}, it must be"):
        attest(OTHER.sign_update(update()), HOSPITAL.public_key)


def test_a_signature_that_only_claims_the_right_key_is_refused() -> None:
    forged = OTHER.sign_update(update())
    assert forged.signature is not None
    claim = forged.signature.model_copy(update={"key_id": key_id(HOSPITAL.public_key)})
    with pytest.raises(SignatureError, match="is not what key"):
        attest(forged.model_copy(update={"signature": claim}), HOSPITAL.public_key)


def test_an_attestation_cannot_be_edited() -> None:
    found = attest(HOSPITAL.sign_update(update()), HOSPITAL.public_key)
    for change in (
        {"samples": 1_000_000},
        {"round_uid": "u2"},
        {"update_digest": "f" * 64},
        {"manifest_digest": "f" * 64},
    ):
        with pytest.raises(SignatureError):
            check_attestation(found.model_copy(update=change), HOSPITAL.public_key)


def test_a_models_manifest_is_signed_as_a_whole() -> None:
    signed = HOSPITAL.sign_model(model())
    again = parse_manifest(ModelManifest, manifest_bytes(signed), "key")
    check_model(again, HOSPITAL.public_key)
    changes: list[dict[str, Any]] = [{"metrics": {}}, {"contributors": []}, {"round_uid": "u2"}, {"file": file("e")}]
    for change in changes:
        with pytest.raises(SignatureError, match="is not what key"):
            check_model(again.model_copy(update=change), HOSPITAL.public_key)
    with pytest.raises(SignatureError, match="carries no signature"):
        check_model(model(), HOSPITAL.public_key)


def test_the_canonical_bytes_have_sorted_keys_no_spaces_and_no_signature() -> None:
    text = canonical_bytes(HOSPITAL.sign_update(update())).decode()
    assert text.startswith('{"architecture":"vit","attempt":1,"created":"2026-01-02T03:04:05Z","encoding":"full",')
    assert '"classes":["ä","b"]' in text
    assert '"loss_after":1e-17,"loss_before":0.1' in text
    assert "signature" not in text


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    st.integers(1, 2**63 - 1),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_the_canonical_bytes_survive_the_store(metrics: dict[str, float], samples: int, created: datetime) -> None:
    manifest = update(metrics=metrics, samples=samples, created=created)
    assert canonical_bytes(stored(manifest)) == canonical_bytes(manifest)


def test_a_key_is_kept_as_pem(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(HOSPITAL.to_pem())
    assert Signer.from_pem(path).public_key == HOSPITAL.public_key


def test_a_key_of_openssl_is_as_good(tmp_path: Path) -> None:
    pem, der = tmp_path / "key", tmp_path / "public"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(pem)], check=True, capture_output=True)
    public = ["openssl", "pkey", "-in", str(pem), "-pubout", "-outform", "DER", "-out", str(der)]
    subprocess.run(public, check=True, capture_output=True)
    assert base64.b64decode(Signer.from_pem(pem).public_key) == der.read_bytes()[-32:]


def _encrypted() -> bytes:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Ed25519PrivateKey.generate().private_bytes(pem, form, serialization.BestAvailableEncryption(b"x"))


def _of_another_kind() -> bytes:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return X25519PrivateKey.generate().private_bytes(pem, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"no key", "no private key as PEM"),
        (_encrypted, "without a password"),
        (_of_another_kind, "only Ed25519 is allowed"),
    ],
)
def test_a_file_that_is_no_key_is_refused_by_name(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "ed25519.pem"
    with pytest.raises(ConfigError, match=r"ed25519.pem is no private key"):
        Signer.from_pem(path)
    path.write_bytes(content())
    with pytest.raises(ConfigError, match=message):
        Signer.from_pem(path)


@pytest.mark.parametrize("key", ["", "abc", "A" * 43, "!" * 43 + "=", "A" * 42 + "=="])
def test_a_public_key_is_32_bytes_in_base64(key: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes in base64 are allowed"):
        key_id(key)
