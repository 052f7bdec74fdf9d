"""Takes models from folders into the store of a simulation, so that a round can start from them."""

from __future__ import annotations

from pathlib import Path

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.api.base import ModelReference
from umim.artifacts.files import sha256_of
from umim.artifacts.manifests import manifest_bytes, parse_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, ConfigError

PARTS_NAME = "parts.safetensors"


def take_parent(store: ObjectStore, name: str, folder: Path) -> ModelReference:
    """Copy a model into the store and return how a round names it.

    The folder holds ``model.safetensors`` and ``manifest.json``, as ``umim models pull`` writes and as it lies in the
    store of a simulation; other parts (the MIM decoder, shared heads) are in ``parts.safetensors`` or as in the store.
    Raises ConfigError for a file that is missing, ArtifactError for one that is not what the manifest says.
    """
    manifest_path, tensors = folder / contract.MANIFEST_FILE, folder / contract.MODEL_FILE
    for path in (manifest_path, tensors):
        if not path.is_file():
            raise ConfigError(f"parent {name}: there is no {path}")
    manifest = parse_manifest(ModelManifest, manifest_path.read_bytes(), str(manifest_path))
    digest = manifest.file.digest
    _take(store, tensors, contract.model_key(digest), digest)
    parts_digest = _take_parts(store, name, folder, manifest)
    store.put(contract.model_manifest_key(digest), manifest_bytes(manifest), if_absent=True)
    return ModelReference(name=name, digest=digest, parts_digest=parts_digest)


def _take_parts(store: ObjectStore, name: str, folder: Path, manifest: ModelManifest) -> str | None:
    """Copy the other parts into the store and return their digest, None where the model has none.

    The manifest is that of whoever published the encoder first: a parts file of another round is as good.
    """
    digest, beside = manifest.file.digest, folder / PARTS_NAME
    if beside.is_file():
        found = sha256_of(beside)
        _take(store, beside, contract.parts_key(digest, found), found)
        return found
    if manifest.parts is None:
        return None
    key = contract.parts_key(digest, manifest.parts.digest)
    path = folder / key.removeprefix(contract.model_prefix(digest))
    if not path.is_file():
        raise ConfigError(
            f"parent {name}: {contract.MANIFEST_FILE} names other parts (MIM decoder, shared heads), but there is no "
            f"{beside}: fetch them with umim models pull --parts {beside}"
        )
    _take(store, path, key, manifest.parts.digest)
    return manifest.parts.digest


def _take(store: ObjectStore, path: Path, key: str, digest: str) -> None:
    found = sha256_of(path)
    if found != digest:
        raise ArtifactError(f"{path} has sha256 {found}, its manifest says {digest}")
    if store.stat(key) is None:
        store.upload(path, key)
