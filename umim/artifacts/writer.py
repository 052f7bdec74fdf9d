"""Writing tensors files: safetensors, in pieces, hashed while they pass. Equal tensors give equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from umim.api.artifacts import TensorInfo
from umim.artifacts.files import replace_file
from umim.artifacts.layout import Layout, plan_layout

DTYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""Names of torch's types in safetensors."""


@dataclass(frozen=True)
class WrittenTensors:
    """A tensors file on the local disk."""

    path: Path
    """Where it lies."""
    digest: str
    """sha256 of the file in hexadecimal."""
    size_bytes: int
    """Size of the file in bytes."""


class TensorsWriter:
    """Writes the tensors of a layout in the order of the file, each in any number of pieces."""

    def __init__(self, path: Path, file: BinaryIO, layout: Layout, header: bytes, hashed: bool = True) -> None:
        self._path = path
        self._file = file
        self._digest = hashlib.sha256() if hashed else None
        self._offset = 0
        self._written: WrittenTensors | None = None
        self.layout = layout
        """Where each tensor goes."""
        self._write(header)

    @property
    def written(self) -> WrittenTensors:
        """The file, once it is complete. Raises ValueError before, and where it is not hashed."""
        if self._written is None:
            why = "not complete" if self._digest else "not hashed"
            raise ValueError(f"{self._path.name} is {why}: {self._offset} bytes are written")
        return self._written

    def write(self, name: str, piece: bytes | memoryview) -> None:
        """Append a piece of the tensor whose turn it is. Raises ValueError for another tensor's."""
        slot = self.layout.by_name[name]
        if not slot.start <= self._offset <= self._offset + len(piece) <= slot.stop:
            raise ValueError(f"{len(piece)} bytes of tensor {name} at byte {self._offset} are out of turn: {slot}")
        self._write(piece)

    def finish(self) -> None:
        """Say that all is written. Raises ValueError when tensors are missing."""
        if self._offset != self.layout.slots[-1].stop:
            raise ValueError(f"{self._offset} of {self.layout.slots[-1].stop} bytes of the tensors were written")
        if self._digest:
            self._written = WrittenTensors(self._path, self._digest.hexdigest(), self._offset)

    def _write(self, piece: bytes | memoryview) -> None:
        if self._digest:
            self._digest.update(piece)
        self._file.write(piece)
        self._offset += len(piece)


@contextmanager
def writing_tensors(
    path: Path, infos: Mapping[str, TensorInfo], note: str | None = None, durable: bool = True, hashed: bool = True
) -> Iterator[TensorsWriter]:
    """Open a tensors file for writing. It appears under its name, see ``replace_file``, when the block ends well.

    Not ``hashed``: for a file whose digest nobody asks for.

    Raises ValueError when there are no tensors, or when the block leaves some out.
    """
    if not infos:
        raise ValueError("a tensors file needs at least one tensor")
    layout, header = plan_layout(dict(infos), note)
    with replace_file(path, durable) as file:
        writer = TensorsWriter(path, file, layout, header, hashed)
        yield writer
        writer.finish()


def write_safetensors(tensors: Mapping[str, torch.Tensor], path: Path, note: str | None = None) -> WrittenTensors:
    """Write named tensors, and a text, to a file, atomically. Equal tensors and text give equal bytes.

    The text is the only metadata in the file, since the order of several ones is not fixed. Tensors on a device,
    strided views and tensors that share memory are copied, one at a time. A mapping that reads its tensors when asked
    is asked twice for each. Raises ValueError when there are none.
    """
    infos = {name: info_of(tensors[name]) for name in sorted(tensors)}
    with writing_tensors(path, infos, note) as writer:
        for slot in writer.layout.slots:
            plain = tensors[slot.name].detach().to("cpu").contiguous()
            if slot.elements:  # torch cannot view an empty tensor of stride 0 as bytes
                writer.write(slot.name, plain.reshape(-1).view(torch.uint8).numpy().data)
    return writer.written


def info_of(tensor: torch.Tensor) -> TensorInfo:
    """Return shape and type of a tensor."""
    return TensorInfo(shape=list(tensor.shape), dtype=DTYPES[tensor.dtype])
