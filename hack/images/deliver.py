"""Bring built images to where they run: the embedded cluster, an archive, a registry."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.cluster import images as containerd
from hack.cluster.progress import ClusterError, Progress
from hack.cluster.settings import Paths
from hack.images import catalog
from hack.images.archive import stored_images, write_archive
from hack.images.buildah import Buildah, unmount_all
from hack.images.catalog import Image, Target
from hack.images.steps import ImageError
from hack.images.workspace import Workspace, locked


def load(workspace: Workspace, images: list[Image], tag: str, target: Target, cluster: Paths) -> None:
    """Import into the embedded cluster what it lacks of `images`: usually one small layer each.

    Raises:
        ImageError: the cluster is not up.
        ClusterError: the import failed.
    """
    progress = Progress()
    if not cluster.containerd_socket.exists():
        raise ImageError("the embedded cluster is not up: run `python3 -m hack.cluster up` first")
    root = workspace.storage / "root"
    with locked(workspace):
        stored = stored_images(root, _names(images, tag, target))
        have = containerd.present(cluster)
        wanted = [image for image in stored if have.get(image.reference) != image.digest]
        if wanted:
            blobs = frozenset(containerd.ctr(cluster, "content", "ls", "--quiet").split())
            file = workspace.home / "load.tar"
            with progress.step("collecting the layers that the cluster lacks"):
                write_archive(file, root, wanted, blobs)
            try:
                containerd.load(cluster, [file], progress)
            except ClusterError as error:
                # containerd collects garbage meanwhile: a layer of the image before, found at the start, may be gone.
                progress.line(f"images: once more, with all layers, after: {error}")
                write_archive(file, root, wanted, frozenset())
                containerd.load(cluster, [file], progress)
            file.unlink()
    progress.line(f"images: {len(wanted)} loaded, {len(stored) - len(wanted)} unchanged")


def archive(workspace: Workspace, images: list[Image], tag: str, target: Target, file: Path) -> None:
    """Write `images`, complete, to one OCI archive, whose folder exists."""
    progress = Progress()
    root = workspace.storage / "root"
    with locked(workspace), progress.step(f"writing {file}"):
        size = write_archive(file, root, stored_images(root, _names(images, tag, target)), frozenset())
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
                buildah.run("push", f"--tls-verify={str(not plain_http).lower()}", reference, f"docker://{goal}")
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
