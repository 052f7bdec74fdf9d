"""Bring built images to where they run: the embedded cluster, an archive, a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hack.cluster.progress import Progress
from hack.cluster.settings import CONTAINERD_NAMESPACE, Paths
from hack.images import catalog, oci
from hack.images.buildah import Buildah, unmount_all
from hack.images.catalog import Image, Target
from hack.images.steps import ImageError
from hack.images.workspace import REPO, Workspace, locked


def load(workspace: Workspace, images: list[Image], tag: str, target: Target) -> None:
    """Import into the embedded cluster what it lacks of `images`: usually one small layer each.

    Raises:
        ImageError: the cluster is not up, or an import failed.
    """
    progress = Progress()
    socket = Paths.from_env(os.environ).containerd_socket
    if not socket.exists():
        raise ImageError(
            f"the embedded cluster is not up (no {socket}): run `python3 -m hack.cluster up` first"
        )
    with locked(workspace):
        manifests = _to_layout(workspace, images, tag, target, progress)
        have = _images_in_cluster(socket)
        wanted = [m for m in manifests if have.get(m.reference) != m.digest]
        if not wanted:
            progress.line(f"images: the cluster has all {len(manifests)}")
            return
        present = frozenset(_ctr(socket, "content", "ls", "--quiet").split())
        file = workspace.home / "load.tar"
        with progress.step(f"importing {', '.join(m.reference for m in wanted)}"):
            size = oci.write_archive(file, workspace.layout, wanted, present)
            progress.line(f"images: {size / 1e6:.1f} MB to import")
            command = [sys.executable, "-m", "hack.cluster", "load-image", str(file)]
            done = subprocess.run(command, cwd=REPO, stdout=sys.stderr, check=False)
        file.unlink()
        if done.returncode != 0:
            raise ImageError("`python3 -m hack.cluster load-image` failed; its message is above")


def archive(workspace: Workspace, images: list[Image], tag: str, target: Target, file: Path) -> None:
    """Write `images`, complete, to one OCI archive.

    Raises:
        ImageError: the folder of `file` does not exist.
    """
    if not file.parent.is_dir():
        raise ImageError(f"{file}: the folder {file.parent} does not exist")
    progress = Progress()
    with locked(workspace):
        manifests = _to_layout(workspace, images, tag, target, progress)
        with progress.step(f"writing {file}"):
            size = oci.write_archive(file, workspace.layout, manifests, frozenset())
    progress.line(f"images: {file}, {size / 1e6:.0f} MB")


def push(
    workspace: Workspace, images: list[Image], tag: str, target: Target, registry: str, *, plain_http: bool
) -> None:
    """Push `images` to `registry` (`buildah login` first where it asks for a password).

    Raises:
        ImageError: buildah could not push; the message has its words.
    """
    progress = Progress()
    buildah = Buildah(workspace, dict(os.environ))
    with locked(workspace):
        for reference in _names(images, tag, target):
            goal = f"{registry.rstrip('/')}/{reference.removeprefix(catalog.REPOSITORY + '/')}"
            with progress.step(f"pushing {goal}"):
                buildah.run(
                    "push", f"--tls-verify={str(not plain_http).lower()}", reference, f"docker://{goal}"
                )
        buildah.clean_leftovers()


def clean(workspace: Workspace) -> None:
    """Remove everything that the builder keeps; the next build starts from nothing."""
    with locked(workspace):
        unmount_all(workspace.storage)
        for folder in (workspace.storage, workspace.home):
            if folder.exists():
                shutil.rmtree(folder)


def _names(images: list[Image], tag: str, target: Target) -> list[str]:
    return [name for image in images for name in catalog.references(image, tag, target)]


def _to_layout(
    workspace: Workspace, images: list[Image], tag: str, target: Target, progress: Progress
) -> list[oci.Manifest]:
    """Copy new layers to the layout, uncompressed: local copies cost more processor than disk."""
    buildah = Buildah(workspace, dict(os.environ))
    names = _names(images, tag, target)
    workspace.layout.mkdir(parents=True, exist_ok=True)
    noted = workspace.layout / "image-ids.txt"
    with progress.step("copying new layers to the OCI layout"):
        ids = buildah.image_ids()
        wanted = {name: ids[name] for name in names}
        known = dict(line.split() for line in noted.read_text().splitlines()) if noted.exists() else {}
        for name in names:
            if known.get(name) != wanted[name] or name not in oci.read_manifests(workspace.layout):
                buildah.run("push", "--disable-compression", name, f"oci:{workspace.layout}:{name}")
        noted.write_text("".join(f"{name} {key}\n" for name, key in sorted((known | wanted).items())))
        oci.drop_unreferenced(workspace.layout)
        buildah.clean_leftovers()
    manifests = oci.read_manifests(workspace.layout)
    return [manifests[name] for name in names]


def _images_in_cluster(socket: Path) -> dict[str, str]:
    rows = [line.split() for line in _ctr(socket, "images", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def _ctr(socket: Path, *arguments: str) -> str:
    command = ["ctr", "--address", str(socket), "--namespace", CONTAINERD_NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
