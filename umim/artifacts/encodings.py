"""Encodings of an update: the changes of the parent in fewer bytes, and back, slice by slice.

Every format but ``full`` holds changes of the floating-point tensors alone; the parent's other tensors keep their
values. For a tensor ``name`` of the parent a file has

- delta: ``name``, F32, in the tensor's shape;
- bf16: ``name``, BF16, rounded to nearest even;
- int8: ``name``, I8, and ``name.scale``, F32 [channels]: the factor of each index of the first dimension, of the
  whole tensor where that has at most one dimension (QSGD with rounding to nearest even in place of random rounding,
  Alistarh et al. 2016, arXiv 1610.02132);
- top-k: ``name``, I32 [2, k]: ascending flat indices of the k largest changes, and the bits of their F32 values
  (Deep Gradient Compression, Lin et al. 2017, arXiv 1712.01887).

Decoding is exact: the same bits on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umim.api.artifacts import TensorInfo
from umim.api.round import EncodingFormat
from umim.artifacts.floats import FLOATS, SIZES, bytes_of, values_of
from umim.artifacts.layout import Layout
from umim.artifacts.sources import Scratch, Source
from umim.errors import ArtifactError

Changes = NDArray[np.float32]
ChangeFormat = Literal["delta", "bf16", "int8", "top-k"]
"""Formats that hold changes: all but full."""

SCALE = ".scale"
"""End of the name of an int8 tensor's scales."""
LARGEST_INT8 = 127
"""-128 is never written, so that the range is symmetric. It is read."""
MOST_ELEMENTS = 2**31
"""Of a tensor in top-k: its indices are I32."""

_DTYPES: Mapping[str, str] = {"delta": "F32", "bf16": "BF16", "int8": "I8"}


class NotFiniteError(ArtifactError):
    """An encoded tensor holds an infinite value or none that is a number."""


def encoded_infos(parent: Mapping[str, TensorInfo], encoding: EncodingFormat, density: float) -> dict[str, TensorInfo]:
    """Return what the file of an update must hold, exactly, for a parent with these tensors.

    ``density`` is the share of the changes that top-k keeps, in (0, 1]; the other formats ignore it. Raises
    ArtifactError when the format cannot hold such a model.
    """
    if encoding == "full":
        return dict(parent)
    found: dict[str, TensorInfo] = {}
    for name, info in parent.items():
        if info.dtype not in FLOATS:
            continue
        for entry, described in _infos(name, info, encoding, density).items():
            if entry in found:
                raise ArtifactError(f"encoding {encoding}: the model's tensors give two entries {entry}")
            found[entry] = described
    return found


def kept_count(elements: int, density: float) -> int:
    """Return how many changes of a tensor top-k keeps: at least 1 where there are any."""
    return min(elements, max(1, round(density * elements)))


def encode(name: str, change: Changes, encoding: ChangeFormat, density: float) -> dict[str, memoryview]:
    """Return the entries of the file for one tensor's change, float32 in the tensor's shape.

    Raises NotFiniteError when the change is not finite, or not in bfloat16, whose range is slightly smaller.
    """
    _check_finite(f"the change of tensor {name}", change)
    if encoding == "int8":
        scales = _scales(change)
        rows = change.reshape(scales.size, -1) if scales.size else change.reshape(0, 0)
        # A channel of zeros has scale 0 and stays 0.
        steps = np.where(scales > 0, scales, np.float32(1)).astype(np.float64)[:, None]
        whole = np.rint(rows.astype(np.float64) / steps).astype(np.int8)
        return {name: _bytes(whole), name + SCALE: _bytes(scales)}
    if encoding == "top-k":
        flat = np.ascontiguousarray(change, np.float32).reshape(-1)
        indices = _largest(np.abs(flat), kept_count(flat.size, density))
        return {name: _bytes(np.stack([indices.astype("<i4"), flat[indices].view("<i4")]))}
    raw = bytes_of(change, _DTYPES[encoding])
    _check_finite(f"the change of tensor {name} in {encoding}", values_of(raw, _DTYPES[encoding]))
    return {name: raw}


def decode(name: str, entries: Mapping[str, memoryview], shape: tuple[int, ...], encoding: ChangeFormat) -> Changes:
    """Return the change, [elements], that a reader of one tensor's entries gets. Raises ArtifactError as it does."""
    elements = math.prod(shape)
    if encoding == "top-k":
        return TopK.read(name, entries[name], elements).scatter(0, elements)
    scales = read_scales(name, entries[name + SCALE]) if encoding == "int8" else None
    return decode_slice(encoding, entries[name], 0, elements, scales)


def decode_slice(
    encoding: Literal["delta", "bf16", "int8"],
    raw: memoryview,
    start: int,
    elements: int,
    scales: Changes | None = None,
) -> Changes:
    """Return the changes of a piece of a tensor, 1-D; delta is not copied. They may be not finite, as in any file.

    ``raw`` are the bytes of the piece, ``start`` is the flat index of its first value in a tensor of ``elements``
    values, and ``scales`` are the tensor's, for int8.
    """
    if encoding != "int8":
        return values_of(raw, _DTYPES[encoding]).astype(np.float32, copy=False)
    whole = np.frombuffer(raw, np.int8)
    if scales is None or not whole.size:
        return np.zeros(whole.size, np.float32)
    row = elements // scales.size
    first, last = start // row, (start + whole.size - 1) // row
    counts = np.full(last - first + 1, row)
    counts[0] -= start - first * row
    counts[-1] -= (last + 1) * row - (start + whole.size)
    with np.errstate(over="ignore"):  # whoever reads looks for what is not finite
        return np.multiply(whole, np.repeat(scales[first : last + 1], counts), dtype=np.float32)


def read_scales(name: str, raw: memoryview) -> Changes:
    """Return the scales of an int8 tensor. Raises ArtifactError naming the first that is no scale."""
    scales = np.frombuffer(raw, "<f4").astype(np.float32)
    _check_finite(f"tensor {name}{SCALE}", scales)
    bad = np.flatnonzero(scales < 0)
    if bad.size:
        raise ArtifactError(f"tensor {name}{SCALE}: value {bad[0]} is {scales[bad[0]]}, it must not be negative")
    return scales


@dataclass(frozen=True)
class TopK:
    """The kept changes of one tensor."""

    indices: NDArray[np.int32]
    """Flat indices, ascending, [k]."""
    values: Changes
    """The changes there, [k]."""

    @classmethod
    def read(cls, name: str, raw: memoryview, elements: int) -> TopK:
        """Check and return an entry of a tensor of so many values. The bytes may be reused afterwards.

        Raises ArtifactError naming the first place where the indices are no ascending ones of this tensor, or
        NotFiniteError where the values are not finite.
        """
        rows = np.frombuffer(raw, "<i4").astype(np.int32).reshape(2, -1)
        indices, values = rows[0], rows[1].view(np.float32)
        outside = np.flatnonzero((indices < 0) | (indices >= elements))
        if outside.size:
            at = outside[0]
            raise ArtifactError(f"tensor {name}: index {at} is {indices[at]}, the tensor has {elements} values")
        falling = np.flatnonzero(indices[1:] <= indices[:-1])
        if falling.size:
            at = falling[0] + 1
            raise ArtifactError(
                f"tensor {name}: index {at} is {indices[at]} and follows {indices[at - 1]}, they must ascend"
            )
        _check_finite(f"tensor {name}", values)
        return cls(indices, values)

    def scatter(self, start: int, stop: int) -> Changes:
        """Return the changes from flat index ``start`` to ``stop``: 0 where none was kept."""
        first, last = np.searchsorted(self.indices, (start, stop))
        found = np.zeros(stop - start, np.float32)
        found[self.indices[first:last] - start] = self.values[first:last]
        return found


class Decoder:
    """Reads the changes from an encoded file, in the order of its tensors. One thread at a time uses it.

    It holds all scales of an int8 file and the entry of one top-k tensor. That the file has the tensors of
    ``encoded_infos`` must have been checked.
    """

    def __init__(
        self, source: Source, layout: Layout, parent: Mapping[str, TensorInfo], encoding: ChangeFormat
    ) -> None:
        """Reads the scales. Raises ArtifactError when one is not finite or negative."""
        self._source = source
        self._layout = layout
        self._parent = parent
        self._encoding = encoding
        self._top: tuple[str, TopK] | None = None
        # In the order of the file, before anything else of it: a source in the store goes forward only.
        self._scales = (
            {
                slot.name.removesuffix(SCALE): read_scales(slot.name.removesuffix(SCALE), self._whole(slot.name))
                for slot in layout.slots
                if slot.info.dtype == "F32"
            }
            if encoding == "int8"
            else {}
        )

    def changes(self, name: str, start: int, stop: int, buffer: Scratch) -> Changes:
        """Return the changes of a tensor of the parent from flat index ``start`` to ``stop``: 1-D, read only.

        They may lie in the buffer, which holds at least their bytes in the file. Raises ArtifactError, see
        ``TopK.read`` and ``Source.read``; of delta, bf16 and int8 they may be not finite.
        """
        elements = math.prod(self._parent[name].shape)
        if self._encoding == "top-k":
            if self._top is None or self._top[0] != name:
                self._top = None  # before the next: never two at once
                self._top = name, TopK.read(name, self._whole(name), elements)
            return self._top[1].scatter(start, stop)
        slot = self._layout.by_name[name]
        size = SIZES[slot.info.dtype]
        raw = self._source.read(slot.start + start * size, (stop - start) * size, buffer)
        return decode_slice(self._encoding, raw, start, elements, self._scales.get(name))

    def _whole(self, entry: str) -> memoryview:
        slot = self._layout.by_name[entry]
        return self._source.read(slot.start, slot.stop - slot.start, bytearray(slot.stop - slot.start))


def _infos(name: str, info: TensorInfo, encoding: ChangeFormat, density: float) -> dict[str, TensorInfo]:
    if encoding == "top-k":
        elements = math.prod(info.shape)
        if elements >= MOST_ELEMENTS:
            raise ArtifactError(f"encoding top-k: tensor {name} has {elements} values, {MOST_ELEMENTS - 1} are allowed")
        return {name: TensorInfo(shape=[2, kept_count(elements, density)], dtype="I32")}
    found = {name: TensorInfo(shape=info.shape, dtype=_DTYPES[encoding])}
    if encoding == "int8":
        found[name + SCALE] = TensorInfo(shape=[_channels(tuple(info.shape))], dtype="F32")
    return found


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) > 1 else 1


def _scales(change: Changes) -> Changes:
    """Return for each channel the smallest float32 that reaches its largest change in 127 steps."""
    channels = _channels(change.shape)
    if not change.size:
        return np.zeros(channels, np.float32)
    largest = np.abs(change.reshape(channels, -1)).max(axis=1).astype(np.float64)
    scales = (largest / LARGEST_INT8).astype(np.float32)
    short = scales.astype(np.float64) * LARGEST_INT8 < largest
    return np.where(short, np.nextafter(scales, np.float32(np.inf)), scales)


def _largest(magnitudes: Changes, count: int) -> NDArray[np.intp]:
    """Return the ascending indices of the ``count`` largest; of equal ones those with the lower index."""
    if not count:
        return np.zeros(0, np.intp)
    place = magnitudes.size - count
    least = np.partition(magnitudes, place)[place]
    above = np.flatnonzero(magnitudes > least)
    equal = np.flatnonzero(magnitudes == least)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))


def _check_finite(what: str, values: NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise NotFiniteError(f"{what}: value {bad[0]} is {values.reshape(-1)[bad[0]]}, it must be finite")


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
