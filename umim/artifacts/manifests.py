"""Reading and writing manifests and Job results. Needs no torch, so that the operator can use it too."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import TypeVar

from pydantic import ValidationError

from umim import contract
from umim.api.artifacts import JobResult, ModelManifest, UpdateManifest
from umim.api.base import ApiModel
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, NotFoundError
from umim.settings import first_problem

MAX_MANIFEST_BYTES = 16 << 20

ManifestT = TypeVar("ManifestT", bound=ApiModel)


class ManifestError(ArtifactError):
    """A manifest that cannot be read. ``field`` is the path of the offending field, camelCase with dots."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def parse_manifest(model: type[ManifestT], data: bytes, key: str) -> ManifestT:
    """Parse a manifest's JSON. ``key`` is for messages. Raises ManifestError naming the field."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        raise ManifestError(f"{key}: {first_problem(error)}", field) from error


def get_manifest(store: ObjectStore, key: str) -> bytes:
    """Return a manifest's bytes. Raises ManifestError where there are more than allowed.

    No more are read: between a look at the object's size and the reading, a site may replace it.
    """
    data = store.read_range(key, 0, MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{key}: at most {MAX_MANIFEST_BYTES} bytes are allowed, it has more", "")
    return data


def read_update_manifest(store: ObjectStore, round_uid: str, site: str, attempt: int) -> UpdateManifest | None:
    """Return the manifest of a committed update, or None while it is not committed.

    Raises ManifestError when it cannot be read, and the store's errors.
    """
    return _read(store, UpdateManifest, contract.update_manifest_key(round_uid, site, attempt))


def read_model_manifest(store: ObjectStore, digest: str) -> ModelManifest:
    """Return a published model's manifest.

    Raises NotFoundError when no such model is published, ArtifactError when the manifest is not one of this model.
    """
    key = contract.model_manifest_key(digest)
    manifest = _read(store, ModelManifest, key)
    if manifest is None:
        raise NotFoundError(f"model {digest} is not in the store: object {key} does not exist")
    expected = (digest, contract.model_key(digest))
    if (manifest.file.digest, manifest.file.key) != expected:
        raise ArtifactError(f"{key}: file.digest and file.key must be {expected[0]} and {expected[1]}")
    return manifest


def read_job_result(store: ObjectStore, round_uid: str, role: contract.Role) -> JobResult | None:
    """Return what an init or aggregate Job left, or None while it is not finished. Raises ManifestError."""
    return _read(store, JobResult, contract.result_key(round_uid, role))


def write_job_result(store: ObjectStore, role: contract.Role, result: JobResult) -> bool:
    """Commit the result of an init or aggregate Job. Returns False where an earlier attempt already did."""
    return store.put(contract.result_key(result.round_uid, role), manifest_bytes(result), if_absent=True)


def manifest_bytes(manifest: ApiModel) -> bytes:
    """Return a manifest as JSON text for people and programs, without the fields that are None."""
    return (manifest.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n").encode()


def canonical_bytes(manifest: ApiModel) -> bytes:
    """Return what stands for a manifest in signatures and digests: JSON with sorted keys, without its signature.

    As RFC 8785 orders it, but with numbers as Python writes them: the shortest text that gives the same float64.
    """
    fields = {name: value for name, value in manifest.to_dict().items() if name != "signature"}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def canonical_digest(manifest: ApiModel) -> str:
    """Return the sha256 of a manifest's canonical bytes in hexadecimal."""
    return hashlib.sha256(canonical_bytes(manifest)).hexdigest()


def software_versions(distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the named distributions that are installed, sorted by name."""
    versions = {"python": platform.python_version()}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # Debian's packages of torch carry no metadata under every name: what is unknown is not claimed.
            continue
    return dict(sorted(versions.items()))


def _read(store: ObjectStore, model: type[ManifestT], key: str) -> ManifestT | None:
    return None if store.stat(key) is None else parse_manifest(model, get_manifest(store, key), key)
