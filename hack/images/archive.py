"""OCI archives straight from buildah's storage, with only the layers that the reader lacks.

`buildah push` to an archive or a layout compresses every layer anew each time (26 s for the trainer image). The
storage keeps what is needed to do better: each layer's files, and its tar headers as a tar-split file
(https://github.com/vbatts/tar-split). Put together they give the very bytes that the layer's digest is of; the
digest is checked while they are written.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.images.steps import ImageError

# containerd takes the image's name from the first annotation, others from the second.
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Layer:
    """A layer of an image.

    Attributes:
        digest: of the uncompressed tar, `sha256:...`.
        size: of the uncompressed tar, in bytes.
        key: the layer's id in the storage.
    """

    digest: str
    size: int
    key: str


@dataclass(frozen=True)
class StoredImage:
    """An image in buildah's storage.

    Attributes:
        reference: full name.
        manifest: the manifest's bytes.
        config: the configuration's bytes.
        layers: lowest first.
    """

    reference: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return _sha256(self.manifest)


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def stored_images(root: Path, references: list[str]) -> list[StoredImage]:
    """Return the images called `references` from the storage folder `root`.

    Raises:
        ImageError: one is not built.
    """
    images = json.loads((root / "overlay-images" / "images.json").read_text())
    layers = {layer["id"]: layer for layer in json.loads((root / "overlay-layers" / "layers.json").read_text())}
    by_name = {name: image for image in images for name in image.get("names") or []}
    found = []
    for reference in references:
        if reference not in by_name:
            raise ImageError(f"{reference} is not built: run `python3 -m hack.images build`")
        found.append(_stored_image(root, reference, by_name[reference], layers))
    return found


def _stored_image(
    root: Path, reference: str, image: dict[str, str], layers: dict[str, dict[str, object]]
) -> StoredImage:
    folder = root / "overlay-images" / image["id"]
    manifest = (folder / "manifest").read_bytes()
    name = json.loads(manifest)["config"]["digest"]
    config = (folder / f"={base64.b64encode(name.encode()).decode()}").read_bytes()
    chain = []
    key = image["layer"]
    while key:
        layer = layers[key]
        chain.append(Layer(str(layer["diff-digest"]), int(str(layer["diff-size"])), key))
        key = str(layer.get("parent", ""))
    return StoredImage(reference, manifest, config, tuple(reversed(chain)))


def layer_chunks(root: Path, key: str) -> Iterator[bytes]:
    """Yield the bytes of a layer's tar: headers and padding from its tar-split file, contents from its folder."""
    folder = root / "overlay" / key / "diff"
    with gzip.open(root / "overlay-layers" / f"{key}.tar-split.gz", "rt", encoding="utf-8") as entries:
        for line in entries:
            entry = json.loads(line)
            if entry["type"] == 2:
                yield base64.b64decode(entry["payload"])
            elif entry.get("size"):
                raw = (
                    base64.b64decode(entry["name_raw"]).decode(errors="surrogateescape") if "name_raw" in entry else ""
                )
                with (folder / (raw or entry["name"])).open("rb") as content:
                    while chunk := content.read(1 << 20):
                        yield chunk


class _LayerStream(io.RawIOBase):
    """Reads a layer's tar and digests it on the way, for `TarFile.addfile`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = b""
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
            self._hash.update(self._rest)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def write_archive(target: Path, root: Path, images: list[StoredImage], present: frozenset[str]) -> int:
    """Write `images` as one OCI archive, without the layers whose digests are in `present`; return its size in bytes.

    The image specification lets an archive lack blobs that its reader has already; containerd then uses its own.

    Raises:
        ImageError: a layer in the storage is damaged.
    """
    index = {"schemaVersion": 2, "manifests": [_descriptor(image) for image in images]}
    blobs = {_sha256(blob): blob for image in images for blob in (image.manifest, image.config)}
    layers = {layer.digest: layer for image in images for layer in image.layers if layer.digest not in present}
    half = target.with_name(target.name + ".half")
    with tarfile.open(half, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for digest, blob in blobs.items():
            _add(archive, _blob_name(digest), blob)
        for layer in layers.values():
            _add_layer(archive, root, layer)
    half.replace(target)
    return target.stat().st_size


def _descriptor(image: StoredImage) -> dict[str, object]:
    return {
        "mediaType": json.loads(image.manifest).get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": dict.fromkeys(_NAME_KEYS, image.reference),
    }


def _blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _add_layer(archive: tarfile.TarFile, root: Path, layer: Layer) -> None:
    member = tarfile.TarInfo(_blob_name(layer.digest))
    member.size = layer.size
    stream = _LayerStream(layer_chunks(root, layer.key))
    try:
        archive.addfile(member, io.BufferedReader(stream, 1 << 20))
    except (OSError, tarfile.TarError) as error:
        raise ImageError(f"layer {layer.digest} in {root} cannot be read ({error}); {_ANEW}") from error
    if stream.digest() != layer.digest:
        raise ImageError(f"layer {layer.digest} in {root} is damaged; {_ANEW}")


_ANEW = "run `python3 -m hack.images clean`, then build again"
