"""The pause image: Debian's static busybox in an image from scratch, as an OCI archive."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from hack.cluster.settings import PAUSE_IMAGE

COMMAND = ["/bin/busybox", "sleep", "2147483647"]
USER = "65535:65535"


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _layer(busybox: bytes) -> bytes:
    """The only layer, uncompressed: /bin/busybox with its usual names, /tmp."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        _add(archive, "bin/busybox", busybox, 0o755)
        for applet in ("cat", "id", "nslookup", "sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


def build(busybox: bytes, name: str = PAUSE_IMAGE) -> bytes:
    """An oci-archive with one image (OCI image layout 1.0). The same input gives the same bytes."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    vendor = "application/vnd.oci.image"
    layer = _layer(busybox)
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": COMMAND, "User": USER, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{vendor}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{vendor}.config.v1+json"),
        "layers": [blob(gzip.compress(layer, mtime=0), f"{vendor}.layer.v1.tar+gzip")],
    }
    reference = blob(json.dumps(manifest).encode(), f"{vendor}.manifest.v1+json")
    reference["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [reference]}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for path, data in sorted(blobs.items()):
            _add(archive, path, data)
    return output.getvalue()


def write(target: Path, busybox: Path = Path("/bin/busybox")) -> Path:
    """Write the archive to `target` and return it."""
    target.write_bytes(build(busybox.read_bytes()))
    return target
