"""The header of a safetensors file, read from any source: which tensor lies where. Trusts nothing in it.

The format: 8 bytes with the length of the header (little endian), the header as JSON, and the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from umim.api.artifacts import TensorInfo
from umim.artifacts.floats import SIZES
from umim.artifacts.sources import Source
from umim.errors import ArtifactError

NOTE = "umim"
"""Name of the only metadata."""
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 16 << 20
"""A header of a hundred thousand tensors is smaller."""
MOST_BRACKETS = 400_000
"""Most ``{`` and ``[`` in a header: above a hundred thousand tensors need. An empty one is 3 bytes of JSON, 60 here."""
MOST_ERROR_CHARACTERS = 500
"""Length at which an error's text is cut: it may quote the file, and goes into the round's status."""

_METADATA = "__metadata__"
_RANKS = {dtype: rank for rank, dtype in enumerate(SIZES)}


@dataclass(frozen=True)
class TensorSlot:
    """Where one tensor lies in a file."""

    name: str
    """Its name."""
    info: TensorInfo
    """Its shape and type."""
    start: int
    """Offset of its first byte in the file."""
    stop: int
    """Offset behind its last byte."""

    @property
    def elements(self) -> int:
        """Number of its values."""
        return math.prod(self.info.shape)


@dataclass(frozen=True)
class Layout:
    """What a tensors file holds."""

    slots: tuple[TensorSlot, ...]
    """The tensors in the order of the file."""
    note: str | None
    """The text that was written with them."""
    data_start: int
    """Offset of the first tensor in the file."""

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and type of every tensor by name, sorted by name."""
        return {slot.name: slot.info for slot in sorted(self.slots, key=lambda slot: slot.name)}

    @cached_property
    def by_name(self) -> dict[str, TensorSlot]:
        """The tensors by name."""
        return {slot.name: slot for slot in self.slots}


def plan_layout(infos: dict[str, TensorInfo], note: str | None) -> tuple[Layout, bytes]:
    """Return where safetensors puts these tensors, and the file's bytes before them.

    It ranks the types, large ones first, and sorts by name within a type, so that equal tensors give equal files.
    Raises ValueError for a tensor with the name of the metadata, and for names and notes that are not Unicode.
    """
    if _METADATA in infos:
        raise ValueError(f"no tensor may be named {_METADATA}: safetensors keeps its metadata there")
    names = sorted(infos, key=lambda name: (-_RANKS[infos[name].dtype], name.encode()))
    header: dict[str, Any] = {} if note is None else {_METADATA: {NOTE: note}}
    offset, offsets = 0, {}
    for name in names:
        size = _size(infos[name])
        offsets[name] = (offset, offset + size)
        header[name] = {
            "dtype": infos[name].dtype,
            "shape": infos[name].shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    start = LENGTH_BYTES + len(text)
    slots = tuple(TensorSlot(name, infos[name], start + offsets[name][0], start + offsets[name][1]) for name in names)
    return Layout(slots, note, start), len(text).to_bytes(LENGTH_BYTES, "little") + text


def tensor_bytes(infos: Mapping[str, TensorInfo]) -> int:
    """Return how many bytes tensors take in a file, its header left out."""
    return sum(_size(info) for info in infos.values())


def read_layout(source: Source, what: str) -> Layout:
    """Return the layout of a tensors file. ``what`` names the file in errors.

    Raises ArtifactError when the header is no safetensors header, or the tensors overlap, have gaps or are not as
    large as shape and type say.
    """
    if source.size < LENGTH_BYTES:
        raise ArtifactError(f"{what} has {source.size} bytes: no safetensors file")
    length = int.from_bytes(source.read(0, LENGTH_BYTES, bytearray(LENGTH_BYTES)), "little")
    if length > min(MOST_HEADER_BYTES, source.size - LENGTH_BYTES):
        raise ArtifactError(
            f"{what}: the header's length is {length}, at most {min(MOST_HEADER_BYTES, source.size - LENGTH_BYTES)} "
            "bytes are allowed: no safetensors file"
        )
    raw = bytes(source.read(LENGTH_BYTES, length, bytearray(length)))
    start = LENGTH_BYTES + length
    try:
        entries = _entries(raw)
        note = _note(entries.pop(_METADATA, {}))
        slots = [_slot(name, entry, start) for name, entry in entries.items()]
        slots.sort(key=lambda slot: (slot.start, slot.stop))
        _check_contiguous(slots, start, source.size)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:MOST_ERROR_CHARACTERS]
        raise ArtifactError(f"{what} has no readable safetensors header: {reason}") from error
    return Layout(tuple(slots), note, start)


def _entries(raw: bytes) -> dict[str, Any]:
    brackets = raw.count(b"{") + raw.count(b"[")
    if brackets > MOST_BRACKETS:
        raise ValueError(f"it has {brackets} brackets, at most {MOST_BRACKETS} are allowed")
    if not raw.startswith(b"{"):
        raise ValueError(f"it starts with {raw[:8]!r}, not with an object")
    entries: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_once)
    return entries


def _note(metadata: Any) -> str | None:
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"{_METADATA} is {metadata!r}, an object of strings is allowed")
    for text in (*metadata, *metadata.values()):
        _check_text(text)
    return metadata.get(NOTE)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not Unicode: JSON can name half a character, UTF-8 cannot") from error


def _slot(name: str, entry: Any, base: int) -> TensorSlot:
    _check_text(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_integers(offsets) and len(offsets) == 2):
        raise ValueError(f"tensor {name!r}: data_offsets {offsets!r} are not two integers")
    try:
        info = TensorInfo.model_validate({"shape": shape if _integers(shape) else None, "dtype": dtype})
    except ValidationError as error:
        raise ValueError(
            f"tensor {name!r} has type {dtype!r} and shape {shape!r}; allowed are BOOL, U8-U64, I8-I64, F16, F32, F64 "
            "and BF16 with at most 16 dimensions"
        ) from error
    if offsets[1] - offsets[0] != _size(info):
        raise ValueError(f"tensor {name!r} takes {offsets[1] - offsets[0]} bytes, its shape and type {_size(info)}")
    return TensorSlot(name, info, base + offsets[0], base + offsets[1])


def _integers(found: Any) -> bool:
    """Whether it is a list of whole numbers below 2**63. Python takes true for 1."""
    return isinstance(found, list) and all(type(one) is int and abs(one) < 1 << 63 for one in found)


def _size(info: TensorInfo) -> int:
    return math.prod(info.shape) * SIZES[info.dtype]


def _check_contiguous(slots: list[TensorSlot], start: int, size: int) -> None:
    for slot in slots:
        if slot.start != start:
            raise ValueError(f"tensor {slot.name!r} starts at byte {slot.start}, {start} was expected")
        start = slot.stop
    if start != size:
        raise ValueError(f"the file has {size} bytes, its header says {start}")
