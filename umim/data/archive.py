"""npz archives, read without trust: each array is checked by its headers before memory is taken for it.

``numpy.load`` allocates what an array's header claims, returns raw bytes for a member that is no array, and inflates
whatever is there. Format: zip (PKWARE APPNOTE 6.3), and numpy.lib.format for the arrays.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from umim.data.limits import MOST_ARRAY_BYTES, MOST_INFLATION, UNREADABLE, check_limit
from umim.errors import DataError

SUFFIX = ".npy"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""Version 3 is for structured types with names beyond Latin-1, of which no data set has one."""
_ENCRYPTED = 1
_KINDS = "biufUS"
"""Kinds of numpy types that are read: numbers and texts. No objects: those are pickles."""


class Archive:
    """The arrays of an open archive. Each is read when it is asked for."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        """Raises DataError when a name is there twice: readers do not agree on which one counts."""
        self._path = path
        self._file = file
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in file.infolist():
            name = member.filename.removesuffix(SUFFIX)
            if name in self._members:
                raise unreadable(path, f"it has two arrays {name!r}; allowed is one")
            self._members[name] = member
        self.files: list[str] = list(self._members)
        """Names of the arrays."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array. Raises DataError when its headers lie, or it holds neither numbers nor texts."""
        member = self._members[name]
        what = f"{self._path.name}: {name}"
        self._check_member(member, what)
        try:
            with self._file.open(member) as stream:
                dtype, shape = _header(stream)
                start = stream.tell()
            self._check_array(member, what, dtype, shape, start)
            with self._file.open(member) as stream:
                result: NDArray[Any] = npy.read_array(stream, allow_pickle=False)  # type: ignore[no-untyped-call]
        except UNREADABLE as error:
            raise unreadable(self._path, f"{name}: {error}") from error
        return result

    def _check_member(self, member: zipfile.ZipInfo, what: str) -> None:
        if member.flag_bits & _ENCRYPTED:
            raise DataError(f"{what} is encrypted; allowed are arrays as numpy.savez writes them")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{what} has the compression {member.compress_type}; allowed are stored and deflated")
        stored = min(member.compress_size, self._path.stat().st_size)
        most = stored * (MOST_INFLATION if member.compress_type == zipfile.ZIP_DEFLATED else 1)
        check_limit(f"{what} says how many bytes it has", member.file_size, min(MOST_ARRAY_BYTES, most))

    def _check_array(
        self, member: zipfile.ZipInfo, what: str, dtype: np.dtype[Any], shape: tuple[int, ...], start: int
    ) -> None:
        if dtype.kind not in _KINDS:
            raise DataError(f"{what} is {dtype}; allowed are numbers and texts")
        size = math.prod(shape) * dtype.itemsize
        if any(side < 0 for side in shape) or start + size != member.file_size:
            raise DataError(
                f"{what} is {dtype} {shape} by its header, {size} bytes; the archive has {member.file_size - start}"
            )
        if shape and shape[0] and not size:
            raise DataError(f"{what} is {dtype} {shape}: {shape[0]} rows without a value; allowed are rows with values")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive for reading. Raises DataError naming the file when it is none."""
    try:
        file = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    with file:
        yield Archive(path, file)


def unreadable(path: Path, reason: object) -> DataError:
    """Return the error for a file that is no archive of arrays."""
    return DataError(f"{path} cannot be read as an npz archive: {reason}")


def _header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    version = npy.read_magic(stream)  # type: ignore[no-untyped-call]
    if version not in _HEADERS:
        raise ValueError(f"an array of format {version}; allowed are {', '.join(map(str, _HEADERS))}")
    shape, _, dtype = _HEADERS[version](stream)  # type: ignore[no-untyped-call]
    return dtype, shape
