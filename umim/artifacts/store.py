"""The object store as everything else sees it. Implementations: ``memory``, ``local`` and ``minio``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_KEY = re.compile(r"^(?!\.{1,2}(/|$))[A-Za-z0-9._-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)*\Z")


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of one object."""

    key: str
    """Object key."""
    size_bytes: int
    """Size in bytes."""
    etag: str
    """Changes when the content changes. Not a digest to verify with."""


class ObjectStore(Protocol):
    """A flat, strongly consistent map from keys to bytes.

    Keys are ``part/part/...`` of letters, digits, ``.``, ``_`` and ``-``; no part is ``.`` or ``..``.
    Every method raises NotFoundError where an object must exist and does not, AccessDeniedError where the
    credentials do not suffice or have expired, StoreError when the store does not answer, and ValueError for a
    malformed key.
    """

    def get(self, key: str) -> bytes:
        """Return the whole object. For small objects such as manifests; see ``download``."""
        ...

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write the whole object at once. With ``if_absent``, return False and change nothing where one exists."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what the store knows of an object, or None where there is none."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects whose key starts with the prefix, sorted by key."""
        ...

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return at most ``length`` (> 0) bytes from ``offset`` (>= 0); fewer at the end, none behind it."""
        ...

    def download(self, key: str, path: Path) -> str:
        """Write the object to a file and return its sha256 in hexadecimal, computed while the bytes pass.

        The file appears under its name only when complete.
        """
        ...

    def upload(self, path: Path, key: str) -> str:
        """Write a file's content to the object and return its sha256 in hexadecimal."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object. No error where there is none."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects whose key starts with the prefix, which must not be empty; return how many."""
        ...


def check_key(key: str) -> str:
    """Return the key. Raises ValueError when it is malformed, see ``ObjectStore``."""
    if not _KEY.match(key) or len(key) > 1024:
        raise ValueError(f"malformed object key {key!r}")
    return key


def check_range(offset: int, length: int) -> None:
    """Raise ValueError unless ``offset`` >= 0 and ``length`` > 0."""
    if offset < 0 or length <= 0:
        raise ValueError(f"range must have offset >= 0 and length > 0, got {offset} and {length}")


def check_prefix(prefix: str) -> str:
    """Return the prefix of a deletion. Raises ValueError when it is empty: that would be the whole bucket."""
    if not prefix:
        raise ValueError("a deletion needs a non-empty prefix")
    return prefix
