"""What the builds need from elsewhere: Debian packages, Debian's root file system, programs built from source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hack.images.steps import ImageError, run_logged
from hack.images.workspace import REPO, Workspace

BINARIES = ("minio", "kueue", "otelcol", "jaeger")
"""Programs that `hack.cluster` builds from their Go modules and an image holds."""
PACKAGES = ("buildah", "mmdebstrap")
# minbase, without manuals and translations; licence texts stay.
ROOTFS_COMMAND = (
    "mmdebstrap",
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "trixie",
)


def make_rootfs(workspace: Workspace, descriptor: int) -> Path:
    """Make `rootfs.tar` with mmdebstrap and return its path.

    Raises:
        ImageError: mmdebstrap failed.
    """
    path = workspace.home / "made" / "rootfs.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name("half-rootfs.tar")
    environ = dict(os.environ) | {"TMPDIR": str(workspace.scratch)}
    run_logged([*ROOTFS_COMMAND, str(half)], workspace.log("rootfs"), environ, descriptor)
    half.replace(path)
    return path


def binary(tool: str) -> Path:
    """Return the path of one of BINARIES, built by `hack.cluster` if need be (its progress goes to stderr).

    Raises:
        ImageError: it could not be built.
    """
    command = [sys.executable, "-m", "hack.cluster", "tool", tool]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True, check=False)
    path = Path(done.stdout.strip())
    if done.returncode != 0 or not path.is_file():
        raise ImageError(f"`python3 -m hack.cluster tool {tool}` gave no program; its message is above")
    return path
