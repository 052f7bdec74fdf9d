"""An object store in memory, for tests of pure logic and as the reference of what a store does."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from umim.artifacts.files import replace_file, sha256_of
from umim.artifacts.store import ObjectInfo, check_key, check_prefix, check_range
from umim.errors import NotFoundError


class MemoryStore:
    """Keeps objects in a dictionary. Safe to use from several threads."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        with self._lock:
            data = self._objects.get(check_key(key))
        if data is None:
            raise NotFoundError(f"object {key} does not exist")
        return data

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write the whole object at once, see ``ObjectStore.put``."""
        check_key(key)
        with self._lock:
            if if_absent and key in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None."""
        with self._lock:
            data = self._objects.get(check_key(key))
        return None if data is None else _info(key, data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects under the prefix, sorted by key."""
        with self._lock:
            found = {key: data for key, data in self._objects.items() if key.startswith(prefix)}
        return [_info(key, found[key]) for key in sorted(found)]

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes from ``offset``."""
        check_range(offset, length)
        return self.get(key)[offset : offset + length]

    def download(self, key: str, path: Path) -> str:
        """Write the object to a file and return its sha256."""
        data = self.get(key)
        with replace_file(path) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def upload(self, path: Path, key: str) -> str:
        """Write a file's content to the object and return its sha256."""
        self.put(key, path.read_bytes())
        return sha256_of(path)

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""
        with self._lock:
            self._objects.pop(check_key(key), None)

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects under the prefix; return how many."""
        check_prefix(prefix)
        with self._lock:
            keys = [key for key in self._objects if key.startswith(prefix)]
            for key in keys:
                del self._objects[key]
        return len(keys)


def _info(key: str, data: bytes) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=len(data), etag=hashlib.sha256(data).hexdigest()[:32])
