"""Folders of this machine in place of PersistentVolumeClaims."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from umim.api.hospital import DatasetSpec
from umim.errors import ConfigError

Locate = Callable[[str, str], Path]
"""Returns the folder that stands for a claim, from namespace and name of the claim. Raises ConfigError."""


class LocalClaims:
    """Finds the folder of a claim: one that was named for it, else ``root/<namespace>/<claim>``."""

    def __init__(self, root: Path | None, named: Mapping[tuple[str, str], Path]) -> None:
        """``named`` is by namespace and name of the claim."""
        self._root = root
        self._named = named

    def __call__(self, namespace: str, claim: str) -> Path:
        """Return the folder. Raises ConfigError naming the claim and where it was looked for."""
        path = self._named.get((namespace, claim))
        if path is None and self._root is not None:
            path = self._root / namespace / claim
        if path is None:
            raise ConfigError(f"claim {namespace}/{claim} has no folder: name one for it (--map) or for all (--data)")
        if not path.is_dir():
            raise ConfigError(f"claim {namespace}/{claim} has no folder: {path} is not one")
        return path


def data_path(data: DatasetSpec, namespace: str, locate: Locate) -> Path:
    """Return the file or folder of a data set on this machine. Raises ConfigError when there is none."""
    folder = locate(namespace, data.claim_name)
    path = folder if data.path is None else folder / data.path
    if not path.exists():
        raise ConfigError(f"claim {namespace}/{data.claim_name} lacks {data.path}: there is no {path}")
    return path


def fingerprint(path: Path) -> str:
    """Return a digest of names, sizes and times of all files: it changes when somebody changes the data.

    Contents are not read: a data set may be large, and the digest is only for noticing that results are out of date.
    """
    digest = hashlib.sha256()
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    for file in files:
        found = file.stat()
        digest.update(f"{file.relative_to(path).as_posix()} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
