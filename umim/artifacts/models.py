"""Publishing and fetching models and updates: tensors first, manifest last, digests verified on the way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from umim import contract
from umim.api.artifacts import Attestation, HeadArtifact, ModelManifest, TensorInfo, TensorsFile, UpdateManifest
from umim.api.base import ModelReference
from umim.api.globalmodel import Contributor, SharedHead
from umim.api.hospital import Task
from umim.api.privacy import DifferentialPrivacyRecord
from umim.api.round import EncodingFormat
from umim.artifacts.files import sha256_of
from umim.artifacts.manifests import manifest_bytes, read_model_manifest, read_update_manifest
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import read_header
from umim.artifacts.writer import WrittenTensors
from umim.errors import ArtifactError, NotFoundError


@dataclass(frozen=True)
class HeadFile:
    """A task head on the local disk that may leave a site."""

    path: Path
    """The tensors file."""
    task_name: str
    """Name of the task."""
    task: Task
    """What the head predicts."""
    classes: tuple[str, ...]
    """Class names in the order of the head's outputs."""

    def artifact(self, key: str) -> HeadArtifact:
        """Return the manifest's entry of the head that is to lie under ``key``. Raises ArtifactError."""
        file = describe(self.path, key, sha256_of(self.path))
        return HeadArtifact(task_name=self.task_name, task=self.task, classes=list(self.classes), file=file)


def publish_model(
    store: ObjectStore,
    path: Path,
    *,
    architecture: str,
    image_size: int,
    strategy: str,
    round_uid: str,
    seed: int,
    software: Mapping[str, str],
    created: datetime,
    parent: ModelReference | None = None,
    contributors: Sequence[Contributor] = (),
    metrics: Mapping[str, float] | None = None,
    parts: WrittenTensors | None = None,
    heads: Sequence[SharedHead] = (),
    optimiser: Sequence[WrittenTensors] = (),
    attestations: Sequence[Attestation] = (),
    seal: Callable[[ModelManifest], ModelManifest] | None = None,
    digest: str | None = None,
) -> str:
    """Publish a tensors file as a global model and return its digest.

    ``parts`` is a file of ``umim.artifacts.parts`` that describes ``heads``; it is stored under the model and its own
    digest, so that models with the same encoder and other parts live side by side. ``optimiser`` are the files of
    the server's optimiser that the parts name. ``seal`` returns the manifest as it is to be written: signed. ``digest``
    is the file's sha256 where whoever wrote it knows it; the file is hashed where not. A wrong one does no harm: the
    upload hashes what leaves.

    Content-addressed: publishing the same bytes again, also at the same time from two places, leaves one model, and
    the manifest of the first publisher stays. ``created`` is in the manifest only, never in the digest.
    Fields as in ``ModelManifest``. Raises ArtifactError when the file is no safetensors file or is not what ``digest``
    says, and the store's errors.
    """
    digest = digest or sha256_of(path)
    manifest = ModelManifest(
        architecture=architecture,
        image_size=image_size,
        strategy=strategy,
        file=describe(path, contract.model_key(digest), digest),
        parts=None if parts is None else describe(parts.path, contract.parts_key(digest, parts.digest), parts.digest),
        heads=sorted(heads, key=lambda head: head.task_name),
        parent=parent,
        round_uid=round_uid,
        contributors=sorted(contributors, key=lambda contributor: contributor.site),
        attestations=sorted(attestations, key=lambda attestation: attestation.site),
        metrics=dict(metrics or {}),
        seed=seed,
        software=dict(software),
        created=created,
    )
    _upload(store, path, manifest.file)
    if parts is not None and manifest.parts is not None:
        _upload(store, parts.path, manifest.parts)
    for slot in optimiser:
        _upload(store, slot.path, describe(slot.path, contract.optimiser_key(digest, slot.digest), slot.digest))
    store.put(
        contract.model_manifest_key(digest),
        manifest_bytes(manifest if seal is None else seal(manifest)),
        if_absent=True,
    )
    return digest


def publish_update(
    store: ObjectStore,
    path: Path,
    *,
    round_uid: str,
    site: str,
    attempt: int,
    parent_digest: str,
    architecture: str,
    image_size: int,
    samples: int,
    metrics: Mapping[str, float],
    seed: int,
    software: Mapping[str, str],
    created: datetime,
    encoding: EncodingFormat = "full",
    head: HeadFile | None = None,
    seal: Callable[[UpdateManifest], UpdateManifest] | None = None,
    differential_privacy: DifferentialPrivacyRecord | None = None,
    digest: str | None = None,
) -> UpdateManifest:
    """Commit a tensors file as a site's update and return its manifest. Fields as in ``UpdateManifest``.

    ``head`` leaves with it. ``seal`` is told the manifest before the first byte leaves, and returns it as it is to be
    written. ``digest`` as in ``publish_model``. The manifest is written last and only if there is none: a committed
    update is never changed. Raises ArtifactError when the file is no safetensors file or is not what ``digest`` says,
    or this attempt has committed already, and the store's errors.
    """
    digest = digest or sha256_of(path)
    manifest = UpdateManifest(
        round_uid=round_uid,
        site=site,
        attempt=attempt,
        parent_digest=parent_digest,
        architecture=architecture,
        image_size=image_size,
        encoding=encoding,
        file=describe(path, contract.update_key(round_uid, site, attempt), digest),
        head=None if head is None else head.artifact(contract.head_key(round_uid, site, attempt)),
        samples=samples,
        metrics=dict(metrics),
        differential_privacy=differential_privacy,
        seed=seed,
        software=dict(software),
        created=created,
    )
    committed = read_update_manifest(store, round_uid, site, attempt)
    if committed is None:
        manifest = manifest if seal is None else seal(manifest)
        _upload(store, path, manifest.file)
        if head is not None and manifest.head is not None:
            _upload(store, head.path, manifest.head.file)
        store.put(contract.update_manifest_key(round_uid, site, attempt), manifest_bytes(manifest), if_absent=True)
        committed = read_update_manifest(store, round_uid, site, attempt)
    if committed is None or committed.file.digest != digest:
        raise ArtifactError(f"site {site} has committed another update in attempt {attempt} of round {round_uid}")
    return committed


def fetch_model(store: ObjectStore, digest: str, path: Path) -> ModelManifest:
    """Download a global model to a file and return its manifest.

    Raises NotFoundError when it is not published, ArtifactError when bytes or tensors are not what digest and
    manifest say. On an error no file is left.
    """
    manifest = read_model_manifest(store, digest)
    fetch_tensors(store, manifest.file, path)
    return manifest


def fetch_parts(store: ObjectStore, model: ModelReference, path: Path) -> bool:
    """Download the other parts of a model to a file; returns False where it has none.

    The reference names them by digest: the model's manifest is that of whoever published its encoder first. Raises
    NotFoundError when they are not in the store, ArtifactError when their bytes are not what the digest says.
    """
    if model.parts_digest is None:
        return False
    key = contract.parts_key(model.digest, model.parts_digest)
    digest = store.download(key, path)
    if digest != model.parts_digest:
        path.unlink(missing_ok=True)
        raise ArtifactError(f"{key} has sha256 {digest}: the stored object is damaged")
    return True


def fetch_update(store: ObjectStore, round_uid: str, site: str, attempt: int, path: Path) -> UpdateManifest:
    """Download a site's update to a file and return its manifest. Errors as ``fetch_model``."""
    manifest = read_update_manifest(store, round_uid, site, attempt)
    if manifest is None:
        raise NotFoundError(f"site {site} has committed no update in attempt {attempt} of round {round_uid}")
    fetch_tensors(store, manifest.file, path)
    return manifest


def fetch_tensors(store: ObjectStore, file: TensorsFile, path: Path) -> None:
    """Download a tensors file and verify digest and header. On an error no file is left. Raises ArtifactError."""
    try:
        digest = store.download(file.key, path)
        if digest != file.digest:
            raise ArtifactError(f"{file.key} has sha256 {digest}, its manifest says {file.digest}")
        check_tensors(read_header(path), file.tensors, file.key, "its manifest says")
    except ArtifactError:
        path.unlink(missing_ok=True)
        raise


def check_tensors(
    found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo], what: str, according_to: str
) -> None:
    """Raise ArtifactError naming the first tensor that is missing, superfluous, or of another shape or type."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            raise ArtifactError(f"{what} lacks tensor {name}")
        if name not in expected:
            raise ArtifactError(f"{what} has a superfluous tensor {name}")
        if found[name] != expected[name]:
            raise ArtifactError(
                f"{what}: tensor {name} is {_shown(found[name])}, {according_to} {_shown(expected[name])}"
            )


def describe(path: Path, key: str, digest: str) -> TensorsFile:
    """Return the manifest's entry of a local tensors file that is to lie under ``key``. Raises ArtifactError."""
    return TensorsFile(key=key, digest=digest, size_bytes=path.stat().st_size, tensors=read_header(path))


def _upload(store: ObjectStore, path: Path, file: TensorsFile) -> None:
    digest = store.upload(path, file.key)
    if digest != file.digest:
        raise ArtifactError(
            f"{path} is not what was written: its sha256 was {file.digest}, what was uploaded has {digest}"
        )


def _shown(info: TensorInfo) -> str:
    return f"{info.dtype}[{', '.join(map(str, info.shape))}]"
