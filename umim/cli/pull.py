"""Fetches a published model to the local disk, verified."""

from __future__ import annotations

from pathlib import Path

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.artifacts.files import replace_file, sha256_of
from umim.artifacts.manifests import manifest_bytes, read_model_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError

TENSORS_NAME = "model.safetensors"
MANIFEST_NAME = "manifest.json"


def pull_model(store: ObjectStore, digest: str, folder: Path) -> tuple[ModelManifest, bool]:
    """Write model.safetensors and manifest.json below a folder; returns the manifest and whether bytes were fetched.

    Each file appears under its name only when complete and verified, the manifest last. Tensors that are there
    already with the right digest are kept. Raises NotFoundError when the store lacks the model, ArtifactError when
    its bytes are not what the digest says.
    """
    manifest = read_model_manifest(store, digest)
    tensors = folder / TENSORS_NAME
    missing = not tensors.is_file() or sha256_of(tensors) != digest
    if missing:
        partial = folder / f".{TENSORS_NAME}.partial"
        found = store.download(contract.model_key(digest), partial)
        if found != digest:
            partial.unlink()
            raise ArtifactError(
                f"{contract.model_key(digest)} has sha256 {found}, the GlobalModel says {digest}: "
                "the stored object is damaged; nothing was written"
            )
        partial.replace(tensors)
    with replace_file(folder / MANIFEST_NAME) as file:
        file.write(manifest_bytes(manifest))
    return manifest, missing
