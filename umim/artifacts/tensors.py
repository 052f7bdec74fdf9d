"""Tensors files on the local disk, read one tensor at a time. See ``writer`` and, for any source, ``layout``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from umim.api.artifacts import TensorInfo
from umim.artifacts.layout import NOTE
from umim.errors import ArtifactError


class TensorReader:
    """An open tensors file. Each read touches one tensor only: the file is mapped, not loaded."""

    def __init__(self, path: Path, handle: Any) -> None:  # safe_open's methods are untyped
        self._path = path
        self._handle = handle
        self.infos: dict[str, TensorInfo] = {name: _info(path, handle, name) for name in sorted(handle.keys())}
        """Shape and type of every tensor by name, sorted by name."""
        self.note: str | None = (handle.metadata() or {}).get(NOTE)
        """The text that was written with the tensors."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor on the CPU. Raises ArtifactError when there is none of that name."""
        if name not in self.infos:
            raise ArtifactError(f"{self._path.name} has no tensor {name}")
        tensor: torch.Tensor = self._handle.get_tensor(name)
        return tensor


@contextmanager
def open_safetensors(path: Path) -> Iterator[TensorReader]:
    """Open a tensors file for reading. Raises ArtifactError when it is damaged or no safetensors file."""
    try:
        handle: Any = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path.name} is no readable safetensors file: {error}") from error
    with handle:
        yield TensorReader(path, handle)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return shape and type of every tensor of a file, sorted by name. Raises ArtifactError, see above."""
    with open_safetensors(path) as reader:
        return reader.infos


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Load all tensors of a file, by name. Raises ArtifactError when it is damaged or no safetensors file."""
    with open_safetensors(path) as reader:
        return {name: reader.read(name).clone() for name in reader.infos}


def _info(path: Path, handle: Any, name: str) -> TensorInfo:
    part = handle.get_slice(name)
    try:
        return TensorInfo(shape=part.get_shape(), dtype=part.get_dtype())
    except ValueError as error:
        raise ArtifactError(
            f"{path.name}: tensor {name} has type {part.get_dtype()} and shape {part.get_shape()}; allowed are "
            "BOOL, U8-U64, I8-I64, F16, F32, F64 and BF16 with at most 16 dimensions"
        ) from error
