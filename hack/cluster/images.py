"""Loads OCI archives into the cluster's containerd; there is no registry."""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.progress import ClusterError, Progress
from hack.cluster.settings import CONTAINERD_NAMESPACE, Paths

NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def archive_images(archive: Path) -> dict[str, str]:
    """Image name -> manifest digest in an oci-archive.

    Raises ClusterError when the file is no OCI archive or an image in it has no full name.
    """
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("index.json")
            index = json.load(member) if member else {}
    except (OSError, KeyError, tarfile.TarError, json.JSONDecodeError) as error:
        raise ClusterError(
            f"{archive}: not an OCI archive ({str(error).splitlines()[0]}); make it with 'buildah push … oci-archive:'"
        ) from error
    found = {}
    for manifest in index.get("manifests", []):
        notes = manifest.get("annotations", {})
        name = next((notes[key] for key in NAME_KEYS if key in notes), "")
        if "/" not in name or ":" not in name.rpartition("/")[2]:
            raise ClusterError(
                f"{archive}: image name {name!r} in index.json; it must be HOST/NAME:TAG, "
                "as in 'buildah push … oci-archive:FILE:umim.local/operator:dev'"
            )
        found[name] = manifest["digest"]
    return found


def parse_images(text: str) -> dict[str, str]:
    """Image name -> digest from `ctr images list`."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def ctr(paths: Paths, *arguments: str) -> str:
    """Output of containerd's ctr in the namespace that the kubelet uses. Raises ClusterError."""
    command = ["ctr", "--address", str(paths.containerd_socket), "-n", CONTAINERD_NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"ctr {' '.join(arguments[:3])} failed: {done.stderr.strip()[-600:]}")
    return done.stdout


def present(paths: Paths) -> dict[str, str]:
    """Image name -> digest of what containerd has, by tag."""
    found = parse_images(ctr(paths, "images", "list"))
    return {name: digest for name, digest in found.items() if "@" not in name and not name.startswith("sha256:")}


def load(paths: Paths, archives: Sequence[Path], progress: Progress) -> None:
    """Import archives; skip one whose images are all present with the same digest."""
    if not paths.containerd_socket.exists():
        raise ClusterError("the embedded cluster is not running; start it with 'python3 -m hack.cluster up'")
    for archive in archives:
        wanted, have = archive_images(archive), present(paths)
        names = ", ".join(sorted(wanted))
        if all(have.get(name) == digest for name, digest in wanted.items()):
            progress.line(f"{names}: already loaded")
            continue
        with progress.step(f"loading {names} ({archive.stat().st_size / 1e6:.0f} MB)"):
            ctr(paths, "images", "import", str(archive))
