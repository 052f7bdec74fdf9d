"""An object store in a folder of this machine: what a simulation works on, readable with any file manager."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from umim.artifacts.files import replace_file, sha256_of
from umim.artifacts.store import ObjectInfo, check_key, check_prefix, check_range
from umim.errors import AccessDeniedError, NotFoundError, StoreError

TEMPORARY = "~"
"""Start of the name of a file that is being written. No key holds this character, so no object is hidden."""


class LocalStore:
    """Keeps each object in the file of its key below a root folder. Safe to use from several threads.

    One process at a time may write. A folder cannot be a file: a key that continues another one by ``/`` is refused
    with StoreError. What a killed process left half written is no object.
    """

    def __init__(self, root: Path) -> None:
        """Use a folder, which is made with the first object."""
        self._root = root
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        with self._open(key) as file:
            return file.read()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write the whole object at once, see ``ObjectStore.put``."""
        return self._write(key, lambda path: path.write_bytes(data), if_absent)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None."""
        path = self._path(key)
        with _errors(key):
            return _info(key, path) if path.is_file() else None

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects under the prefix, sorted by key."""
        with _errors(prefix):
            return [_info(key, self._root / key) for key in sorted(self._keys(prefix))]

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes from ``offset``."""
        check_range(offset, length)
        with self._open(key) as file:
            file.seek(offset)
            return file.read(length)

    def download(self, key: str, path: Path) -> str:
        """Write the object to a file and return its sha256."""
        with self._open(key) as source, replace_file(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return sha256_of(path)

    def upload(self, path: Path, key: str) -> str:
        """Write a file's content to the object and return its sha256."""
        digest = hashlib.sha256()
        with path.open("rb") as source:

            def copy(target: Path) -> None:
                with target.open("wb") as file:
                    while piece := source.read(1 << 20):
                        digest.update(piece)
                        file.write(piece)

            self._write(key, copy, if_absent=False)
        return digest.hexdigest()

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""
        path = self._path(key)
        with _errors(key), self._lock:
            if path.is_file():
                path.unlink()
                self._prune(path.parent)

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects under the prefix; return how many."""
        check_prefix(prefix)
        with _errors(prefix):
            keys = list(self._keys(prefix))
        for key in keys:
            self.delete(key)
        return len(keys)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _open(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        if not path.is_file():
            raise NotFoundError(f"object {key} does not exist")
        with _errors(key):
            file = path.open("rb")
        with file:
            yield file

    def _write(self, key: str, fill: Callable[[Path], object], if_absent: bool) -> bool:
        """Fill a temporary file and give it the object's name. Returns False where ``if_absent`` forbids that."""
        path = self._path(key)
        with _errors(key), self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
            os.close(handle)
            temporary = Path(name)
            try:
                fill(temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                return _link(temporary, path) if if_absent else _replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _keys(self, prefix: str) -> Iterator[str]:
        start = self._root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(start):
            for name in names:
                key = (Path(folder) / name).relative_to(self._root).as_posix()
                if key.startswith(prefix) and not name.startswith(TEMPORARY):
                    yield key

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty: a store has no folders of its own."""
        with suppress(OSError):  # not empty, or not there
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent


def _link(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)  # unlike a check before a rename, it fails where another process was faster
    except FileExistsError:
        if path.is_dir():
            raise
        return False
    return True


def _replace(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _info(key: str, path: Path) -> ObjectInfo:
    found = path.stat()
    return ObjectInfo(key, found.st_size, f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


@contextmanager
def _errors(key: str) -> Iterator[None]:
    """Turn what the file system says into the errors of a store."""
    try:
        yield
    except PermissionError as error:
        raise AccessDeniedError(f"object {key}: {error}") from error
    except OSError as error:
        raise StoreError(f"object {key}: {error}") from error
