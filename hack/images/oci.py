"""The OCI image layout, as far as archives for containerd need it: reading manifests, writing tar files."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

# containerd takes the image's name from this annotation of the index entry.
_CONTAINERD_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Manifest:
    """One image of a layout.

    Attributes:
        reference: full name of the image.
        descriptor: the entry in index.json.
        blobs: digests (`sha256:...`) of the manifest, the configuration and the layers, with their sizes in bytes.
        layers: digests of the layers, lowest first.
    """

    reference: str
    descriptor: dict[str, object]
    blobs: dict[str, int]
    layers: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return str(self.descriptor["digest"])


def blob_path(layout: Path, digest: str) -> Path:
    """Return the file of a blob in a layout."""
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def read_manifests(layout: Path) -> dict[str, Manifest]:
    """Return the images of a layout by name; none where there is no layout."""
    index = layout / "index.json"
    if not index.exists():
        return {}
    found = {}
    for descriptor in json.loads(index.read_text())["manifests"]:
        reference = descriptor.get("annotations", {}).get(_REF_NAME)
        path = blob_path(layout, descriptor["digest"])
        if reference and path.exists():
            content = json.loads(path.read_text())
            parts = [descriptor, content["config"], *content["layers"]]
            blobs = {part["digest"]: part["size"] for part in parts}
            layers = tuple(layer["digest"] for layer in content["layers"])
            found[reference] = Manifest(reference, descriptor, blobs, layers)
    return found


def drop_unreferenced(layout: Path) -> None:
    """Delete the blobs that no image of the layout uses any more."""
    used = {digest for manifest in read_manifests(layout).values() for digest in manifest.blobs}
    for file in (layout / "blobs" / "sha256").glob("*"):
        if f"sha256:{file.name}" not in used:
            file.unlink()


def write_archive(target: Path, layout: Path, manifests: list[Manifest], present: frozenset[str]) -> int:
    """Write `manifests` as one OCI archive, without the blobs in `present`, and return its size in bytes.

    The image specification lets an archive lack blobs that its reader has already; containerd then uses its own.
    """
    index = [
        descriptor
        | {"annotations": {_REF_NAME: m.reference.rpartition(":")[2], _CONTAINERD_NAME: m.reference}}
        for m in manifests
        for descriptor in [m.descriptor]
    ]
    blobs = dict.fromkeys(digest for m in manifests for digest in m.blobs if digest not in present)
    half = target.with_name(target.name + ".half")
    with tarfile.open(half, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": index}).encode())
        for digest in blobs:
            path = blob_path(layout, digest)
            archive.add(path, arcname=path.relative_to(layout).as_posix(), recursive=False)
    half.replace(target)
    return target.stat().st_size


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
