"""Ed25519 signatures (RFC 8032) over manifests: who says that an update or a model is theirs. See ADR 0011.

A hospital signs an ``Attestation``: the round, the digests of what left, and the digest of the whole manifest. So its
signature can be checked where only the attestation is left, in the manifest of the model that the update went into.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from umim.api.artifacts import Attestation, ModelManifest, UpdateManifest
from umim.api.base import Signature
from umim.artifacts.manifests import canonical_bytes, canonical_digest
from umim.errors import ArtifactError, ConfigError

UNSIGNED = Signature(key_id="0" * 16, value="A" * 86 + "==")
"""Stands in an attestation before it is signed."""


class SignatureError(ArtifactError):
    """A signature is missing, or is not one of the key over this content."""


class Signer:
    """Signs with a private key, which nobody gets out of here."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        """The public key, 32 bytes in base64."""

    @classmethod
    def new(cls) -> Signer:
        """Make a new key from the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, path: Path) -> Signer:
        """Read a private key, PKCS #8 as PEM, as of ``umim keygen`` or ``openssl genpkey``. Raises ConfigError."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path} is no private key as PEM without a password: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} is a key of another kind: only Ed25519 is allowed")
        return cls(key)

    def to_pem(self) -> str:
        """Return the private key as PEM, to keep it. Whoever has it can sign."""
        form, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
        return self._key.private_bytes(encoding, form, serialization.NoEncryption()).decode()

    def sign_update(self, manifest: UpdateManifest) -> UpdateManifest:
        """Return a site's manifest with the hospital's signature."""
        return manifest.model_copy(update={"signature": self._sign(canonical_bytes(_attestation(manifest, UNSIGNED)))})

    def sign_model(self, manifest: ModelManifest) -> ModelManifest:
        """Return a model's manifest with the federation's signature."""
        return manifest.model_copy(update={"signature": self._sign(canonical_bytes(manifest))})

    def _sign(self, content: bytes) -> Signature:
        value = base64.b64encode(self._key.sign(content)).decode()
        return Signature(key_id=key_id(self.public_key), value=value)


def key_id(public_key: str) -> str:
    """Return the short name of a public key: the first 16 hexadecimal digits of the sha256 of its bytes.

    Raises ConfigError when it is not 32 bytes in base64.
    """
    return hashlib.sha256(_raw(public_key)).hexdigest()[:16]


def attest(manifest: UpdateManifest, public_key: str) -> Attestation:
    """Return what a hospital attested of its update. Raises SignatureError unless the key signed this manifest."""
    if manifest.signature is None:
        raise SignatureError(f"the manifest of {manifest.site} carries no signature")
    found = _attestation(manifest, manifest.signature)
    check_attestation(found, public_key)
    return found


def check_attestation(attestation: Attestation, public_key: str) -> None:
    """Raise SignatureError unless the key signed the attestation."""
    _verify(canonical_bytes(attestation), attestation.signature, public_key, f"the update of {attestation.site}")


def check_model(manifest: ModelManifest, public_key: str) -> None:
    """Raise SignatureError unless the key signed a model's manifest."""
    what = f"the manifest of model {manifest.file.digest}"
    if manifest.signature is None:
        raise SignatureError(f"{what} carries no signature")
    _verify(canonical_bytes(manifest), manifest.signature, public_key, what)


def _attestation(manifest: UpdateManifest, signature: Signature) -> Attestation:
    return Attestation(
        round_uid=manifest.round_uid,
        site=manifest.site,
        attempt=manifest.attempt,
        parent_digest=manifest.parent_digest,
        update_digest=manifest.file.digest,
        head_digest=None if manifest.head is None else manifest.head.file.digest,
        samples=manifest.samples,
        manifest_digest=canonical_digest(manifest),
        signature=signature,
    )


def _verify(content: bytes, signature: Signature, public_key: str, what: str) -> None:
    wanted = key_id(public_key)
    if signature.key_id != wanted:
        raise SignatureError(f"{what} is signed with key {signature.key_id}, it must be {wanted}")
    try:
        Ed25519PublicKey.from_public_bytes(_raw(public_key)).verify(base64.b64decode(signature.value), content)
    except InvalidSignature as error:
        raise SignatureError(f"{what} is not what key {wanted} signed: it or the signature was changed") from error


def _raw(public_key: str) -> bytes:
    try:
        raw = base64.b64decode(public_key, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ConfigError(f"{public_key!r} is no Ed25519 public key: 32 bytes in base64 are allowed")
    return raw
