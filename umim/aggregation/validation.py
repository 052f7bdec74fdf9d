"""Checks every update before it can touch the model. A bad one is excluded with a reason, the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from umim import contract
from umim.aggregation.reader import SpilledHead, SpilledUpdate
from umim.api.artifacts import (
    Exclusion,
    ExclusionReason,
    HeadExclusion,
    ModelManifest,
    TensorInfo,
    TensorsFile,
    UpdateManifest,
)
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.artifacts.manifests import ManifestError, read_update_manifest
from umim.artifacts.models import check_tensors
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import open_safetensors
from umim.errors import ArtifactError, ConfigError

HEADER_ALLOWANCE_BYTES = 1 << 20
"""An update has the parent's tensors, so it is as large as the parent but for its header."""


class ExcludedError(Exception):
    """An update is bad. Carries the reason for the round's status."""

    def __init__(self, reason: ExclusionReason, message: str) -> None:
        super().__init__(message)
        self.reason: ExclusionReason = reason


def check_references(updates: Sequence[UpdateReference]) -> None:
    """Raise ConfigError when a site is named twice: it would count twice in the mean."""
    sites = [update.site for update in updates]
    for site in sorted(set(sites)):
        if sites.count(site) > 1:
            raise ConfigError(f"updates: site {site} is named {sites.count(site)} times, once is allowed")


def collect_update(
    store: ObjectStore, config: AggregateJobConfig, parent: ModelManifest, reference: UpdateReference, folder: Path
) -> SpilledUpdate | Exclusion:
    """Download one update into a folder and check it; return it, or why it is excluded.

    Cheap checks come first, so that a bad manifest costs no download. Nothing is left on disk of an excluded update.
    Raises the store's errors: a store that does not answer is no reason to exclude a hospital.
    """
    path = folder / f"{reference.site}.safetensors"
    try:
        manifest = _manifest(store, config.round_uid, reference)
        _check_manifest(manifest, config, reference)
        _fetch(store, manifest.file, parent, path)
        _check_tensors(path, manifest.file, parent.file.tensors)
    except ExcludedError as bad:
        path.unlink(missing_ok=True)
        return Exclusion(site=reference.site, reason=bad.reason, message=str(bad))
    head = _collect_head(store, config, parent, manifest, reference, folder)
    return SpilledUpdate(reference.site, manifest.samples, reference.digest, path, manifest.metrics, head)


def _collect_head(
    store: ObjectStore,
    config: AggregateJobConfig,
    parent: ModelManifest,
    manifest: UpdateManifest,
    reference: UpdateReference,
    folder: Path,
) -> SpilledHead | HeadExclusion | None:
    """Download and check the head that the operator saw with the update. A bad one does not spoil the update."""
    head = manifest.head
    if reference.head_digest is None or head is None:
        return None
    path = folder / f"{reference.site}.head.safetensors"
    try:
        key = contract.head_key(config.round_uid, reference.site, reference.attempt)
        _expect("ManifestInvalid", "head.file.key", head.file.key, key)
        _expect("DigestMismatch", "head.file.digest", head.file.digest, reference.head_digest)
        _fetch(store, head.file, parent, path)
        _check_tensors(path, head.file, head.file.tensors)
        for name, info in head.file.tensors.items():
            _expect("TensorsMismatch", f"the type of tensor {name}", info.dtype, "F32")
    except ExcludedError as bad:
        path.unlink(missing_ok=True)
        return HeadExclusion(site=reference.site, task_name=head.task_name, message=str(bad))
    return SpilledHead(path, head.task_name, head.task, tuple(head.classes), head.file.tensors)


def _manifest(store: ObjectStore, round_uid: str, reference: UpdateReference) -> UpdateManifest:
    try:
        manifest = read_update_manifest(store, round_uid, reference.site, reference.attempt)
    except ManifestError as error:
        reason: ExclusionReason = "NoSamples" if error.field == "samples" else "ManifestInvalid"
        raise ExcludedError(reason, str(error)) from error
    if manifest is None:
        raise ExcludedError("ManifestInvalid", f"attempt {reference.attempt} has no manifest")
    return manifest


def _check_manifest(manifest: UpdateManifest, config: AggregateJobConfig, reference: UpdateReference) -> None:
    _expect("WrongRound", "roundUid", manifest.round_uid, config.round_uid)
    _expect("WrongRound", "site", manifest.site, reference.site)
    _expect("WrongRound", "attempt", manifest.attempt, reference.attempt)
    _expect("WrongParent", "parentDigest", manifest.parent_digest, config.parent.digest)
    _expect("WrongArchitecture", "architecture", manifest.architecture, config.architecture)
    _expect("WrongArchitecture", "imageSize", manifest.image_size, config.image_size)
    key = contract.update_key(config.round_uid, reference.site, reference.attempt)
    _expect("ManifestInvalid", "file.key", manifest.file.key, key)
    _expect("DigestMismatch", "file.digest", manifest.file.digest, reference.digest)


def _expect(reason: ExclusionReason, field: str, found: object, expected: object) -> None:
    if found != expected:
        raise ExcludedError(reason, f"{field} is {found}, it must be {expected}")


def _fetch(store: ObjectStore, file: TensorsFile, parent: ModelManifest, path: Path) -> None:
    key = file.key
    info = store.stat(key)
    if info is None:
        raise ExcludedError("ManifestInvalid", f"the manifest names {key}, which does not exist")
    limit = parent.file.size_bytes + HEADER_ALLOWANCE_BYTES
    if info.size_bytes > limit:
        raise ExcludedError("TooLarge", f"{key} has {info.size_bytes} bytes, at most {limit} are allowed")
    digest = store.download(key, path)
    if digest != file.digest:
        raise ExcludedError("DigestMismatch", f"{key} has sha256 {digest}, file.digest is {file.digest}")


def _check_tensors(path: Path, file: TensorsFile, parent: dict[str, TensorInfo]) -> None:
    try:
        with open_safetensors(path) as reader:
            check_tensors(reader.infos, parent, "the update", "the parent's is")
            check_tensors(reader.infos, file.tensors, "the update", "its manifest says")
            for name in reader.infos:
                values = reader.read(name)
                if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                    raise ExcludedError("NotFinite", f"tensor {name} holds values that are not finite")
    except ArtifactError as error:
        raise ExcludedError("TensorsMismatch", str(error)) from error
