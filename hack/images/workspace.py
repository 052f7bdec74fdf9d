"""Where the image builder keeps things, and the lock that lets one build at a time use them."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.settings import Paths
from hack.images.stamp import input_files

REPO = Path(__file__).resolve().parents[2]
# The date of every file in a build context: layers then do not depend on when a file was checked out.
_CONTEXT_TIME = 1577836800


@dataclass(frozen=True)
class Workspace:
    """Folders of the image builder, all below one cache folder outside the checkout.

    Attributes:
        cache: the cache folder, `$UMIM_CACHE` or `~/.cache/umim`.
    """

    cache: Path

    @property
    def storage(self) -> Path:
        """Buildah's image storage (own root, never the system's)."""
        return self.cache / "containers"

    @property
    def home(self) -> Path:
        """Stamps, logs and build contexts."""
        return self.cache / "images"

    @property
    def scratch(self) -> Path:
        """Temporary files of buildah; holds its caches of apt and pip downloads."""
        return self.home / "tmp"

    def log(self, name: str) -> Path:
        """Log file of the step `name`."""
        return self.home / "logs" / f"{name}.log"

    def stamp(self, reference: str) -> Path:
        """Stamp file of the image `reference`."""
        return self.home / "stamps" / f"{_file_name(reference)}.json"

    def bill(self, reference: str) -> Path:
        """Bill of materials of the image `reference`."""
        return self.home / "bills" / f"{_file_name(reference)}.cdx.json"

    def context(self, name: str) -> Path:
        """Build context folder of the image `name`."""
        return self.home / "context" / name


def _file_name(reference: str) -> str:
    return reference.replace("/", "_").replace(":", "_")


def default_workspace(environ: dict[str, str]) -> Workspace:
    """Return the workspace that `environ` asks for (`UMIM_CACHE`, else `~/.cache/umim`).

    Raises:
        ValueError: `UMIM_CACHE` is not an absolute path.
    """
    return Workspace(Paths.from_env(environ).cache)


def fill_context(target: Path, root: Path, inputs: tuple[str, ...], made: Path | None) -> None:
    """Make `target` hold exactly `inputs` of `root`, and `made` under its own name, with fixed modes and times."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pairs = [(file, target / file.relative_to(root)) for file in input_files(root, inputs)]
    if made is not None:
        pairs.append((made, target / made.name))
    for source, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
    for path in (*target.rglob("*"), target):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (_CONTEXT_TIME, _CONTEXT_TIME))


@contextmanager
def locked(workspace: Workspace) -> Iterator[int]:
    """Hold the workspace's lock; yields its file descriptor.

    Children get the descriptor too: a buildah that outlives a killed builder keeps the lock until it ends.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    path = workspace.home / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"images: waiting for another image build to end ({path})", file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
