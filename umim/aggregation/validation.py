"""Checks every update before it can touch the model. A bad one is excluded with a reason, the others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from umim import contract
from umim.aggregation.reader import ReceivedUpdate, SpilledHead
from umim.aggregation.updates import expectation
from umim.api.artifacts import (
    Attestation,
    Exclusion,
    ExclusionReason,
    HeadExclusion,
    ModelManifest,
    TensorInfo,
    TensorsFile,
    UpdateManifest,
)
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.api.round import EncodingSpec
from umim.artifacts.encodings import encoded_infos
from umim.artifacts.layout import tensor_bytes
from umim.artifacts.manifests import ManifestError, read_update_manifest
from umim.artifacts.models import check_tensors
from umim.artifacts.signing import SignatureError, attest
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import open_safetensors
from umim.errors import ArtifactError, ConfigError

Infos = Mapping[str, TensorInfo]

HEADER_ALLOWANCE_BYTES = 1 << 20
"""The tensors of an update are known, so that only its header's size is not."""


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


def receive_update(
    store: ObjectStore, config: AggregateJobConfig, parent: ModelManifest, reference: UpdateReference, folder: Path
) -> ReceivedUpdate | Exclusion:
    """Check what an update says of itself, and fetch its head into a folder; return it, or why it is excluded.

    Its tensors are not read: they are checked by the merge itself, see ``umim.aggregation.updates``. Raises the
    store's errors: a store that does not answer is no reason to exclude a hospital.
    """
    try:
        manifest = _manifest(store, config.round_uid, reference)
        _check_manifest(manifest, config, reference)
        attestation = _check_signature(manifest, reference.public_key)
        expected = _check_described(manifest, parent, config.aggregation.encoding)
        size_bytes = _check_size(store, manifest.file.key, tensor_bytes(expected))
    except ExcludedError as bad:
        return Exclusion(site=reference.site, reason=bad.reason, message=str(bad))
    head = _collect_head(store, config, parent, manifest, reference, folder)
    return ReceivedUpdate(
        site=reference.site,
        samples=manifest.samples,
        digest=reference.digest,
        key=manifest.file.key,
        size_bytes=size_bytes,
        metrics=manifest.metrics,
        head=head,
        attestation=attestation,
    )


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
        _fetch_head(store, head.file, parent, path)
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
    _expect("WrongEncoding", "encoding", manifest.encoding, config.aggregation.encoding.format)
    _expect("DigestMismatch", "file.digest", manifest.file.digest, reference.digest)


def _check_signature(manifest: UpdateManifest, public_key: str | None) -> Attestation | None:
    """Return what the hospital signed, None where it has no key."""
    if public_key is None:
        return None
    try:
        return attest(manifest, public_key)
    except SignatureError as error:
        raise ExcludedError("SignatureInvalid", str(error)) from error


def _expect(reason: ExclusionReason, field: str, found: object, expected: object) -> None:
    if found != expected:
        raise ExcludedError(reason, f"{field} is {found}, it must be {expected}")


def _check_described(manifest: UpdateManifest, parent: ModelManifest, encoding: EncodingSpec) -> Infos:
    """Return what the update's file must hold."""
    try:
        expected = encoded_infos(parent.file.tensors, encoding.format, encoding.kept)
        check_tensors(manifest.file.tensors, expected, "the update", expectation(encoding))
    except ArtifactError as error:
        raise ExcludedError("TensorsMismatch", str(error)) from error
    return expected


def _check_size(store: ObjectStore, key: str, tensors: int) -> int:
    """Return the size in bytes of an object that a manifest names. ``tensors``: bytes that its tensors may take."""
    info = store.stat(key)
    if info is None:
        raise ExcludedError("ManifestInvalid", f"the manifest names {key}, which does not exist")
    limit = tensors + HEADER_ALLOWANCE_BYTES
    if info.size_bytes > limit:
        raise ExcludedError("TooLarge", f"{key} has {info.size_bytes} bytes, at most {limit} are allowed")
    return info.size_bytes


def _fetch_head(store: ObjectStore, file: TensorsFile, parent: ModelManifest, path: Path) -> None:
    _check_size(store, file.key, tensor_bytes(parent.file.tensors))
    digest = store.download(file.key, path)
    if digest != file.digest:
        raise ExcludedError("DigestMismatch", f"{file.key} has sha256 {digest}, file.digest is {file.digest}")
    try:
        with open_safetensors(path) as reader:
            check_tensors(reader.infos, file.tensors, "the head", "its manifest says")
            for name, info in reader.infos.items():
                _expect("TensorsMismatch", f"the type of tensor {name}", info.dtype, "F32")
                if not bool(torch.isfinite(reader.read(name)).all()):
                    raise ExcludedError("NotFinite", f"tensor {name} holds values that are not finite")
    except ArtifactError as error:
        raise ExcludedError("TensorsMismatch", str(error)) from error
