"""Checks a model and its ancestors down to the start model: bytes, signatures, who contributed. Needs no cluster.

What is wrong falls into two kinds. Damage: something is not what its digest, its signature or its parent says. A gap:
something is intact as far as one can see, but no trusted key vouches for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.api.base import Signature
from umim.artifacts.files import sha256_of
from umim.artifacts.manifests import parse_manifest, read_model_manifest
from umim.artifacts.signing import SignatureError, check_attestation, check_model, key_id
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, ConfigError, NotFoundError

FEDERATION = contract.FEDERATION_KEY
PARTS_NAME = "parts.safetensors"
PIECE_BYTES = 8 << 20

Trust = Mapping[str, Sequence[str]]
"""Trusted public keys by owner: a site as namespace.name, or ``federation``. Several: old ones stay trusted."""


class Models(Protocol):
    """Where models lie."""

    def manifest(self, digest: str) -> ModelManifest:
        """Return a model's manifest. Raises NotFoundError, ArtifactError."""
        ...

    def digest_of(self, key: str) -> str | None:
        """Return the sha256 of a file of a model by its key in a store, None where there is none."""
        ...


@dataclass(frozen=True)
class Link:
    """One model of the chain, checked."""

    manifest: ModelManifest
    """What the model says of itself."""
    damage: tuple[str, ...]
    """What is not what it should be."""
    gaps: tuple[str, ...]
    """What no trusted key vouches for."""


class StoreModels:
    """The models of an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def manifest(self, digest: str) -> ModelManifest:
        """See ``Models``."""
        return read_model_manifest(self._store, digest)

    def digest_of(self, key: str) -> str | None:
        """See ``Models``. Reads in pieces: nothing is written."""
        info = self._store.stat(key)
        if info is None:
            return None
        found = hashlib.sha256()
        for offset in range(0, info.size_bytes, PIECE_BYTES):
            found.update(self._store.read_range(key, offset, PIECE_BYTES))
        return found.hexdigest()


class FolderModels:
    """Models in folders, as ``umim models pull`` writes them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read the manifests. Raises NotFoundError for a folder without one, ArtifactError for a damaged one."""
        self._found: dict[str, tuple[Path, ModelManifest]] = {}
        for folder in folders:
            path = folder / contract.MANIFEST_FILE
            if not path.is_file():
                raise NotFoundError(f"there is no {path}: give folders as `umim models pull` writes them")
            manifest = parse_manifest(ModelManifest, path.read_bytes(), str(path))
            self._found[manifest.file.digest] = (folder, manifest)
        self.digests = list(self._found)
        """The models' digests in the order of their folders."""

    def manifest(self, digest: str) -> ModelManifest:
        """See ``Models``."""
        if digest not in self._found:
            raise NotFoundError(f"model {digest} is in none of the folders: pull it, and name its folder with --parent")
        return self._found[digest][1]

    def digest_of(self, key: str) -> str | None:
        """See ``Models``."""
        digest, _, name = key.removeprefix(contract.MODELS).partition("/")
        names = (name,) if name == contract.MODEL_FILE else (PARTS_NAME, name)
        paths = [self._found[digest][0] / name for name in names]
        return next((sha256_of(path) for path in paths if path.is_file()), None)


def read_trust(path: Path) -> dict[str, list[str]]:
    """Read trusted keys: lines of an owner and its public key, with ``#`` for comments. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"--trust: there is no {path}")
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise ConfigError(f"{path}, line {number}: {line!r} must be an owner and its public key")
        try:
            key_id(words[1])
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        found.setdefault(words[0], []).append(words[1])
    return found


def verify_chain(models: Models, digest: str, trust: Trust) -> list[Link]:
    """Check a model and its ancestors; returns them newest first. Never stops at the first thing that is wrong.

    Raises NotFoundError when a model is not there, ArtifactError when a manifest cannot be read or the ancestors go
    round in a circle.
    """
    chain: list[Link] = []
    seen: set[str] = set()
    wanted: str | None = digest
    while wanted is not None:
        if wanted in seen:
            raise ArtifactError(f"model {wanted} is its own ancestor")
        seen.add(wanted)
        manifest = models.manifest(wanted)
        damage = (*_bytes(models, manifest), *_shape(manifest))
        gaps: list[str] = []
        damage += tuple(_signatures(manifest, trust, gaps))
        chain.append(Link(manifest, damage, tuple(gaps)))
        wanted = None if manifest.parent is None else manifest.parent.digest
    return chain


def _bytes(models: Models, manifest: ModelManifest) -> Iterator[str]:
    digest, parts = manifest.file.digest, manifest.parts
    found = models.digest_of(contract.model_key(digest))
    if found != digest:
        yield f"the tensors file {_is(found)}, the manifest says {digest}"
    if parts is not None:
        found = models.digest_of(contract.parts_key(digest, parts.digest))
        if found not in (parts.digest, None):  # a pulled model may lie there without its parts
            yield f"the parts file {_is(found)}, the manifest says {parts.digest}"


def _is(digest: str | None) -> str:
    return "is missing" if digest is None else f"has sha256 {digest}"


def _shape(manifest: ModelManifest) -> Iterator[str]:
    """Say what in a manifest contradicts itself, whoever signed it."""
    if (manifest.parent is None) != manifest.strategy.startswith("init-"):
        yield f"strategy is {manifest.strategy}, but the model has {'no' if manifest.parent is None else 'a'} parent"
    if manifest.parent is None and manifest.contributors:
        yield "a start model names contributors"
    sites = [one.site for one in manifest.contributors]
    for name, named in (("contributors", sites), ("attestations", [one.site for one in manifest.attestations])):
        if len(set(named)) < len(named):
            yield f"{name} names a site twice"
    contributions = {one.site: one for one in manifest.contributors}
    for one in manifest.attestations:
        contribution = contributions.get(one.site)
        if contribution is None:
            yield f"{one.site} attests an update, but is no contributor"
            continue
        for field, attested, said in (
            ("roundUid", one.round_uid, manifest.round_uid),
            ("parentDigest", one.parent_digest, None if manifest.parent is None else manifest.parent.digest),
            ("updateDigest", one.update_digest, contribution.update_digest),
            ("samples", one.samples, contribution.samples),
        ):
            if attested != said:
                yield f"{one.site} attests {field} {attested}, the manifest says {said}"


def _signatures(manifest: ModelManifest, trust: Trust, gaps: list[str]) -> Iterator[str]:
    """Yield forged signatures; add to ``gaps`` what is not signed or signed with a key that is not trusted."""
    key = _trusted(FEDERATION, manifest.signature, trust, gaps)
    if key is not None:
        yield from _forged(partial(check_model, manifest, key))
    attestations = {one.site: one for one in manifest.attestations}
    for contributor in manifest.contributors:
        one = attestations.get(contributor.site)
        key = _trusted(contributor.site, None if one is None else one.signature, trust, gaps)
        if key is not None and one is not None:
            yield from _forged(partial(check_attestation, one, key))


def _trusted(owner: str, signature: Signature | None, trust: Trust, gaps: list[str]) -> str | None:
    """Return the trusted key of an owner that a signature names, or note why there is none."""
    if signature is None:
        gaps.append(f"{owner} has signed nothing")
        return None
    for key in trust.get(owner, ()):
        if key_id(key) == signature.key_id:
            return key
    gaps.append(f"{owner} signed with key {signature.key_id}, which is not trusted for it")
    return None


def _forged(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except SignatureError as error:
        yield str(error)
