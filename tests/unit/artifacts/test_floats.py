"""Values as bytes: BF16 and F16 are rounded as torch rounds them, and what has been written comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from umim.artifacts.floats import FLOATS, SIZES, bytes_of, values_of
from umim.artifacts.writer import DTYPES

TORCH = {name: dtype for dtype, name in DTYPES.items()}
SMALL = ("BF16", "F16")
FINITE_BITS = st.integers(0, 2**32 - 1).filter(lambda bits: bits & 0x7F800000 != 0x7F800000)


def torch_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    return torch.tensor(values.tolist()).to(TORCH[dtype]).view(torch.uint8).numpy().tobytes()


def patterns(dtype: str) -> NDArray[np.uint16]:
    """All 65,536 values of a 16-bit type, without NaN."""
    raw = np.arange(1 << 16, dtype=np.uint16)
    return raw[~np.isnan(values_of(raw.view(np.uint8).data, dtype))]


@given(hnp.arrays(np.uint32, st.integers(0, 64), elements=FINITE_BITS), st.sampled_from(SMALL))
def test_any_float32_is_rounded_as_torch_rounds_it(bits: NDArray[np.uint32], dtype: str) -> None:
    values = bits.view(np.float32)
    assert bytes(bytes_of(values, dtype)) == torch_bytes(values, dtype)


@pytest.mark.parametrize("dtype", SMALL)
def test_all_neighbours_of_all_16_bit_values_and_their_ties_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    exact = values_of(patterns(dtype).view(np.uint8).data, dtype)
    ordered = np.unique(exact[np.isfinite(exact)]).astype(np.float64)
    ties = ((ordered[1:] + ordered[:-1]) / 2).astype(np.float32)
    infinity = np.float32(np.inf)
    around = [*(np.nextafter(ties, sign * infinity) for sign in (-1, 1)), ties, exact]
    values = np.concatenate([*around, np.asarray([0.0, -0.0, np.inf, -np.inf, 3.4028235e38, 65519.996, 65520.0])])
    values = values.astype(np.float32)
    assert values.size > 4 * 60_000
    assert bytes(bytes_of(values, dtype)) == torch_bytes(values, dtype)


@pytest.mark.parametrize("dtype", SMALL)
def test_every_16_bit_value_is_read_as_torch_reads_it_and_comes_back(dtype: str) -> None:
    raw = patterns(dtype)
    values = values_of(raw.view(np.uint8).data, dtype)
    expected = torch.from_numpy(raw.view(np.int16)).view(TORCH[dtype]).float().numpy()
    assert values.tobytes() == expected.tobytes()
    assert bytes(bytes_of(values, dtype)) == raw.tobytes()


@given(hnp.arrays(np.uint32, st.integers(0, 64)))
def test_float32_and_float64_come_back_bit_for_bit_and_are_not_copied(bits: NDArray[np.uint32]) -> None:
    for dtype in ("F32", "F64"):
        raw = memoryview(bits.repeat(2).view(np.uint8).data).toreadonly()
        values = values_of(raw, dtype)
        assert bytes(bytes_of(values, dtype)) == bytes(raw)
        assert values.dtype.itemsize == SIZES[dtype]
        assert not raw.nbytes or np.shares_memory(values, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize(("dtype", "large"), [("BF16", 3.4e38), ("BF16", 1e300), ("F16", 1e5), ("F32", 1e300)])
def test_values_outside_the_range_become_infinite_without_a_warning(dtype: str, large: float) -> None:
    values = values_of(bytes_of(np.asarray([large, -large]), dtype), dtype)
    assert values.tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_any_shape_and_stride_gives_the_bytes_of_the_values_in_their_order(dtype: str) -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4).T
    expected = torch.from_numpy(np.ascontiguousarray(values)).to(TORCH[dtype]).reshape(-1).view(torch.uint8)
    assert bytes(bytes_of(values, dtype)) == expected.numpy().tobytes()
    assert len(bytes_of(np.float64(1), dtype)) == SIZES[dtype]  # type: ignore[arg-type]  # what 0-d arrays turn into
    assert len(bytes_of(np.empty(0), dtype)) == 0


def test_sizes_are_those_of_torch() -> None:
    assert {name: dtype.itemsize for name, dtype in TORCH.items()} == dict(SIZES)
