"""Buildah without a daemon and without namespaces: command lines, storage, leftovers of killed builds."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hack.images.steps import ImageError
from hack.images.workspace import Workspace


def environment(workspace: Workspace, environ: dict[str, str]) -> dict[str, str]:
    """Return the environment of every buildah command: overlay storage, chroot isolation, own folder for downloads."""
    return environ | {
        "STORAGE_DRIVER": "overlay",
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(workspace.scratch),
    }


def base_command(workspace: Workspace) -> list[str]:
    """Return `buildah` with the storage of `workspace`."""
    storage = workspace.storage
    return ["buildah", "--root", str(storage / "root"), "--runroot", str(storage / "run")]


def build_command(
    workspace: Workspace,
    containerfile: Path,
    context: Path,
    references: list[str],
    arguments: dict[str, str],
    labels: dict[str, str],
    secrets: list[str],
) -> list[str]:
    """Return the command that builds one image from a Containerfile, layers cached."""
    command = [*base_command(workspace), "build", "--layers", "--pull=never"]
    for reference in references:
        command += ["--tag", reference]
    for key, value in sorted(arguments.items()):
        command += ["--build-arg", f"{key}={value}"]
    for key, value in sorted(labels.items()):
        command += ["--label", f"{key}={value}"]
    return [*command, *secrets, "--file", str(containerfile), str(context)]


def nested_mounts(mountinfo: str, folder: Path) -> list[str]:
    """Return the mount points below `folder` in the text of /proc/self/mountinfo, innermost first."""
    points = [line.split()[4] for line in mountinfo.splitlines() if line.strip()]
    return sorted((p for p in points if Path(p) != folder and folder in Path(p).parents), reverse=True)


def unmount_all(folder: Path) -> None:
    """Unmount everything below `folder`."""
    for point in nested_mounts(Path("/proc/self/mountinfo").read_text(), folder):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


@dataclass(frozen=True)
class Buildah:
    """Runs short buildah commands on one workspace.

    Attributes:
        workspace: whose storage is used.
        environ: environment of the process; buildah's own settings are added.
    """

    workspace: Workspace
    environ: dict[str, str]

    def run(self, *arguments: str) -> str:
        """Run buildah and return its standard output.

        Raises:
            ImageError: buildah failed; the message has its last line.
        """
        command = [*base_command(self.workspace), *arguments]
        env = environment(self.workspace, self.environ)
        self.workspace.scratch.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ImageError(f"`buildah {' '.join(arguments)}` failed: {words[-1] if words else 'no message'}")
        return done.stdout

    def image_ids(self) -> dict[str, str]:
        """Return the id of each named image in the storage."""
        return {name: image_id for name, (image_id, _) in self.images().items()}

    def images(self) -> dict[str, tuple[str, datetime]]:
        """Return id and time of creation of each named image in the storage."""
        if not self.workspace.storage.exists():
            return {}
        listed = json.loads(self.run("images", "--json", "--no-trunc") or "null") or []
        return {
            name: (image["id"], datetime.fromisoformat(image["createdatraw"]))
            for image in listed
            for name in image.get("names") or []
        }

    def clean_leftovers(self) -> None:
        """Remove the working containers and mounts that builds leave, killed ones above all.

        Call it with the lock held. Afterwards nothing is mounted in the storage; buildah mounts anew what it needs.
        """
        storage = self.workspace.storage
        if not storage.exists():
            return
        unmount_all(storage)
        if self.run("containers", "--quiet").strip():
            self.run("rm", "--all")
        unmount_all(storage)

    def drop_unnamed(self) -> None:
        """Remove images without a name: what earlier builds of changed inputs left. Layers in use stay."""
        self.run("rmi", "--prune")


def require_root() -> None:
    """Refuse to go on as another user than root.

    Raises:
        ImageError: the user is not root.
    """
    if os.geteuid() != 0:
        raise ImageError("images are built as root (overlay mounts, chroot): run this command as root")
