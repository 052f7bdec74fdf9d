"""Floating-point tensors as bytes: what numpy calls F16, F32, F64, and BF16, which it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

SIZES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}
"""Bytes of one value by the type's name in safetensors, in the order in which safetensors ranks types."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Types of trained values. The others are counters, index tables and masks."""


def values_of(raw: memoryview, dtype: str) -> Array:
    """Return values as float32, or as float64 where they are. F32 and F64 are not copied. ``dtype`` in ``FLOATS``."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    return np.frombuffer(raw, "<f8" if dtype == "F64" else "<f4")


def bytes_of(values: Array, dtype: str) -> memoryview:
    """Return values that are not NaN as bytes of a type, rounded to nearest even. The inverse of ``values_of``.

    Values outside the type's range become infinite. float64 goes to BF16 by way of float32.
    """
    with np.errstate(over="ignore"):  # infinities are found by whoever asked for finite values
        if dtype == "BF16":
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
            rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
            return _bytes(rounded.astype("<u2"))
        return _bytes(np.ascontiguousarray(values, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]))


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
