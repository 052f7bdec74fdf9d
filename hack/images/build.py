"""Build images: parents first, unchanged ones not at all, one after the other, resumable at each image."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from hack.cluster.debian import ensure_packages
from hack.cluster.progress import Progress
from hack.images import catalog, pipconf, sbom, tools
from hack.images.buildah import Buildah, build_command, environment
from hack.images.catalog import Image, Target
from hack.images.stamp import Stamp, file_digest, image_digest, read_stamp, tree_digest, write_stamp
from hack.images.steps import run_logged, tail
from hack.images.workspace import REPO, Workspace, fill_context, locked


def source_labels(image: Image) -> dict[str, str]:
    """Return the OCI labels that depend on the checkout: version, revision (the last commit of all inputs), source."""
    if not (image.delivered or image.optional):
        return {}
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    paths = [path for part in catalog.build_order([image]) for path in (part.containerfile, *part.inputs)]
    commit = _git("log", "-1", "--format=%H", "--", *paths) or "unknown"
    changed = "-modified" if _git("status", "--porcelain", "--", *paths) else ""
    labels = {"org.opencontainers.image.revision": commit + changed}
    if image.inputs:
        labels["org.opencontainers.image.version"] = project["version"]
    source = project.get("urls", {}).get("Source")
    return labels | ({"org.opencontainers.image.source": source} if source else {})


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


class Builder:
    """Builds the images of one tag and target.

    Args:
        workspace: where storage, stamps and logs are.
        tag: tag of every image.
        target: `cpu` or `gpu`.
    """

    def __init__(self, workspace: Workspace, tag: str, target: Target) -> None:
        self._workspace = workspace
        self._tag = tag
        self._target = target
        self._buildah = Buildah(workspace, dict(os.environ))
        self._digests: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def build(self, names: list[str]) -> list[Image]:
        """Bring `names` (without names: what a cluster runs) up to date and return them.

        Raises:
            ImageError: a step failed; what was built before it stays.
            ValueError: a name is unknown.
        """
        wanted = catalog.delivered(names, self._target)
        order = catalog.build_order(wanted)
        progress = Progress()
        ensure_packages(tools.PACKAGES, progress)
        built = 0
        with locked(self._workspace) as descriptor:
            self._ids = self._buildah.image_ids()
            for number, image in enumerate(order, start=1):
                built += self._bring_up_to_date(image, f"[{number}/{len(order)}] {image.name}", progress, descriptor)
            if built:
                self._buildah.drop_unnamed()
            sbom.keep(self._workspace, self._buildah, wanted, self._tag, self._target)
            if built:
                self._buildah.clean_leftovers()
        progress.line(f"images: {built} built, {len(order) - built} unchanged")
        return wanted

    def _bring_up_to_date(self, image: Image, title: str, progress: Progress, descriptor: int) -> bool:
        made = tools.binary(image.made) if image.made in tools.BINARIES else None
        digest = self._digest(image, made)
        self._digests[image.name] = digest
        references = catalog.references(image, self._tag, self._target)
        stamp_path = self._workspace.stamp(references[0])
        stamp = read_stamp(stamp_path)
        if stamp and stamp.digest == digest and all(self._ids.get(r) == stamp.image_id for r in references):
            return False
        self._buildah.clean_leftovers()
        log = self._workspace.log(image.name)
        log.unlink(missing_ok=True)
        begin = progress.elapsed
        with progress.step(title, lambda: tail(log, 1).strip()[:70]):
            self._build_one(image, made, log, descriptor)
        self._ids = self._buildah.image_ids()
        write_stamp(stamp_path, Stamp(digest, self._ids[references[0]], round(progress.elapsed - begin, 1)))
        return True

    def _build_one(self, image: Image, made: Path | None, log: Path, descriptor: int) -> None:
        workspace = self._workspace
        workspace.scratch.mkdir(parents=True, exist_ok=True)
        if image.made == "rootfs.tar":
            made = tools.make_rootfs(workspace, descriptor)
        context = workspace.context(image.name)
        fill_context(context, REPO, image.inputs, made)
        command = build_command(
            workspace,
            REPO / image.containerfile,
            context,
            catalog.references(image, self._tag, self._target),
            self._arguments(image),
            source_labels(image),
            pipconf.secrets(dict(os.environ), Path.home(), workspace.home / "secrets"),
        )
        run_logged(command, log, environment(workspace, dict(os.environ)), descriptor)
        shutil.rmtree(context)
        if image.made == "rootfs.tar" and made is not None:
            made.unlink()

    def _arguments(self, image: Image) -> dict[str, str]:
        arguments = {key: catalog.reference(parent, self._tag, self._target) for key, parent in image.parents}
        return arguments | ({"TARGET": self._target} if image.name == "torch" else {})

    def _digest(self, image: Image, made: Path | None) -> str:
        recipe: dict[str, object] = {
            "containerfile": file_digest(REPO / image.containerfile),
            "inputs": tree_digest(REPO, image.inputs),
            "parents": {key: self._digests[parent] for key, parent in image.parents},
            "target": self._target if image.gpu else "cpu",
            "made": file_digest(made) if made else list(tools.ROOTFS_COMMAND) if image.made else None,
        }
        return image_digest(recipe)
