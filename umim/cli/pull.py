"""Fetches a published model to the local disk, verified."""

from __future__ import annotations

from pathlib import Path

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.api.globalmodel import GlobalModelSpec
from umim.artifacts.files import replace_file, sha256_of
from umim.artifacts.manifests import manifest_bytes, read_model_manifest
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, NotFoundError


def pull_model(store: ObjectStore, digest: str, folder: Path) -> tuple[ModelManifest, bool]:
    """Write model.safetensors and manifest.json below a folder; returns the manifest and whether bytes were fetched.

    Each file appears under its name only when complete and verified, the manifest last. Tensors that are there
    already with the right digest are kept. Raises NotFoundError when the store lacks the model, ArtifactError when
    its bytes are not what the digest says.
    """
    manifest = read_model_manifest(store, digest)
    tensors = folder / contract.MODEL_FILE
    missing = _pull(store, contract.model_key(digest), digest, tensors)
    with replace_file(folder / contract.MANIFEST_FILE) as file:
        file.write(manifest_bytes(manifest))
    return manifest, missing


def pull_parts(store: ObjectStore, model: str, spec: GlobalModelSpec, path: Path) -> None:
    """Write the MIM decoder and shared heads of the GlobalModel ``model`` to a file, verified.

    Raises NotFoundError when the model has none or the store lacks them, ArtifactError as ``pull_model``.
    """
    if spec.parts_digest is None:
        raise NotFoundError(f"--parts: GlobalModel {model} has no parts: neither a MIM decoder nor shared heads")
    _pull(store, contract.parts_key(spec.digest, spec.parts_digest), spec.parts_digest, path)


def _pull(store: ObjectStore, key: str, digest: str, path: Path) -> bool:
    """Download an object unless the file is there with the right digest; returns whether bytes were fetched."""
    if path.is_file() and sha256_of(path) == digest:
        return False
    partial = path.with_name(f".{path.name}.partial")
    found = store.download(key, partial)
    if found != digest:
        partial.unlink()
        raise ArtifactError(
            f"{key} has sha256 {found}, the GlobalModel says {digest}: the stored object is damaged; "
            "nothing was written"
        )
    partial.replace(path)
    return True
