"""Encodings of updates: what they keep, what they lose at most, and what a hostile file can do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from umim.api.artifacts import TensorInfo
from umim.artifacts.encodings import (
    SCALE,
    ChangeFormat,
    Changes,
    Decoder,
    NotFiniteError,
    TopK,
    decode,
    encode,
    encoded_infos,
    kept_count,
    read_scales,
)
from umim.artifacts.floats import SIZES
from umim.artifacts.layout import read_layout
from umim.artifacts.sources import MappedSource
from umim.artifacts.writer import writing_tensors
from umim.errors import ArtifactError

FORMATS: tuple[ChangeFormat, ...] = ("delta", "bf16", "int8", "top-k")
DENSITY = 0.3
SHAPES = st.sampled_from([(), (1,), (7,), (3, 5), (4, 2, 3), (1, 9), (0,), (5, 0), (0, 5)])


def finite(most: float = 2.0**100) -> st.SearchStrategy[Changes]:
    values = st.floats(-most, most, width=32)
    return SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=values))


def tied() -> st.SearchStrategy[Changes]:
    return arrays.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]))


def round_trip(change: Changes, encoding: ChangeFormat, density: float = DENSITY) -> Changes:
    return decode("w", encode("w", change, encoding, density), change.shape, encoding).reshape(change.shape)


def top_k(indices: list[int], values: list[float]) -> memoryview:
    return memoryview(np.array(indices, "<i4").tobytes() + np.array(values, "<f4").tobytes())


@given(finite())
def test_delta_loses_nothing(change: Changes) -> None:
    assert round_trip(change, "delta").tobytes() == change.tobytes()


@given(finite())
def test_bf16_is_the_nearest_of_eight_bits(change: Changes) -> None:
    error = np.abs(round_trip(change, "bf16").astype(np.float64) - change)
    tiny = 2.0**-126 * 2.0**-8  # half a step where there are no normal numbers
    assert (error <= np.maximum(np.abs(change.astype(np.float64)) * 2.0**-8, tiny)).all()


@given(finite())
def test_int8_is_at_most_half_a_step_off(change: Changes) -> None:
    entries = encode("w", change, "int8", 1.0)
    scales = read_scales("w", entries["w" + SCALE]).astype(np.float64)
    steps = scales.reshape(-1, *[1] * (change.ndim - 1)) if change.ndim > 1 else scales[0]
    error = np.abs(round_trip(change, "int8").astype(np.float64) - change)
    rounding = np.abs(change.astype(np.float64)) * 2.0**-23 + 2.0**-149  # of the product in float32
    assert (error <= steps / 2 + rounding).all()


def test_int8_has_a_scale_for_each_index_of_the_first_dimension() -> None:
    change = np.array([[127, -127, 1], [0, 0, 0], [0.5, -0.25, 0]], np.float32)
    entries = encode("w", change, "int8", 1.0)
    third = np.nextafter(np.float32(0.5 / 127), np.float32(1))  # 127 times the nearest float32 is less than 0.5
    np.testing.assert_array_equal(read_scales("w", entries["w" + SCALE]), [1, 0, third])
    assert np.frombuffer(entries["w"], np.int8).tolist() == [127, -127, 1, 0, 0, 0, 127, -63, 0]


def test_int8_rounds_halves_to_even() -> None:
    entries = encode("w", np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32), "int8", 1.0)
    assert np.frombuffer(entries["w"], np.int8).tolist() == [127, 0, 2, 2, 0, -2]


@given(st.one_of(finite(), tied()), st.floats(0.001, 1))
def test_top_k_keeps_the_largest_and_of_equal_ones_the_first(change: Changes, density: float) -> None:
    flat, count = change.reshape(-1), kept_count(change.size, density)
    order = sorted(range(flat.size), key=lambda index: (-abs(float(flat[index])), index))
    expected = np.zeros_like(flat)
    for index in order[:count]:
        expected[index] = flat[index]
    np.testing.assert_array_equal(round_trip(change, "top-k", density).reshape(-1), expected)
    assert TopK.read("w", encode("w", change, "top-k", density)["w"], flat.size).indices.size == count


def test_top_k_keeps_at_least_one() -> None:
    assert [kept_count(elements, 0.05) for elements in (0, 1, 3, 19, 100, 1000)] == [0, 1, 1, 1, 5, 50]
    assert kept_count(7, 1.0) == 7


def written(path: Path, changes: Mapping[str, Changes], encoding: ChangeFormat) -> dict[str, TensorInfo]:
    parent = {name: TensorInfo(shape=list(one.shape), dtype="F32") for name, one in changes.items()}
    parent["steps"] = TensorInfo(shape=[], dtype="I64")
    with writing_tensors(path, encoded_infos(parent, encoding, DENSITY)) as writer:
        for slot in writer.layout.slots:
            name = slot.name if slot.name in changes else slot.name.removesuffix(SCALE)
            writer.write(slot.name, encode(name, changes[name], encoding, DENSITY)[slot.name])
    return parent


@pytest.mark.parametrize("encoding", FORMATS)
@settings(max_examples=25)
@given(
    changes=st.lists(finite(), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_slices_of_a_file_are_the_slices_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, encoding: ChangeFormat, changes: list[Changes], cuts: list[int]
) -> None:
    named = {f"w{number}": change for number, change in enumerate(changes)}
    path = tmp_path_factory.getbasetemp() / f"{encoding}.safetensors"
    parent = written(path, named, encoding)
    with MappedSource(path) as source:
        layout = read_layout(source, "the update")
        assert layout.infos == dict(sorted(encoded_infos(parent, encoding, DENSITY).items()))
        decoder = Decoder(source, layout, parent, encoding)
        for name, change in named.items():
            whole = decode(name, encode(name, change, encoding, DENSITY), change.shape, encoding)
            places = sorted({0, change.size, *(cut for cut in cuts if cut < change.size)})
            for start, stop in itertools.pairwise(places):
                buffer = bytearray((stop - start) * SIZES["F32"])
                found = decoder.changes(name, start, stop, buffer)
                assert found.dtype == np.float32
                np.testing.assert_array_equal(found, whole[start:stop])


def test_a_file_holds_no_counters_and_masks() -> None:
    parent = {
        "w": TensorInfo(shape=[4, 6], dtype="F16"),
        "b": TensorInfo(shape=[4], dtype="F64"),
        "steps": TensorInfo(shape=[], dtype="I64"),
        "mask": TensorInfo(shape=[2], dtype="BOOL"),
    }
    assert encoded_infos(parent, "full", 1.0) == parent
    assert encoded_infos(parent, "delta", 1.0) == {
        "w": TensorInfo(shape=[4, 6], dtype="F32"),
        "b": TensorInfo(shape=[4], dtype="F32"),
    }
    assert encoded_infos(parent, "int8", 1.0) == {
        "w": TensorInfo(shape=[4, 6], dtype="I8"),
        "w.scale": TensorInfo(shape=[4], dtype="F32"),
        "b": TensorInfo(shape=[4], dtype="I8"),
        "b.scale": TensorInfo(shape=[1], dtype="F32"),
    }
    assert encoded_infos(parent, "top-k", 0.25)["w"] == TensorInfo(shape=[2, 6], dtype="I32")


def test_names_that_collide_are_refused() -> None:
    info = TensorInfo(shape=[2], dtype="F32")
    with pytest.raises(ArtifactError, match=r"two entries w\.scale"):
        encoded_infos({"w": info, "w.scale": info}, "int8", 1.0)


def test_a_tensor_too_large_for_top_k_is_refused() -> None:
    with pytest.raises(ArtifactError, match="tensor w has 2147483648 values"):
        encoded_infos({"w": TensorInfo(shape=[1 << 31], dtype="F32")}, "top-k", 0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("encoding", FORMATS)
def test_a_change_that_is_not_finite_is_not_written(encoding: ChangeFormat, value: float) -> None:
    with pytest.raises(NotFiniteError, match="tensor w: value 2 is"):
        encode("w", np.array([1, 2, value], np.float32), encoding, 1.0)


def test_a_change_beyond_bfloat16_is_not_written() -> None:
    with pytest.raises(NotFiniteError, match="tensor w in bf16: value 0 is inf"):
        encode("w", np.array([np.finfo(np.float32).max], np.float32), "bf16", 1.0)


@pytest.mark.parametrize("bad", [[-1, 2, 3], [0, 2, 10], [-(2**31), 0, 1], [0, 1, 2**31 - 1]])
def test_an_index_outside_of_the_tensor_is_found(bad: list[int]) -> None:
    with pytest.raises(ArtifactError, match=r"tensor w: index \d is .*, the tensor has 10 values"):
        TopK.read("w", top_k(bad, [1, 1, 1]), 10)


@pytest.mark.parametrize("bad", [[0, 0, 1], [0, 2, 1], [3, 3, 3]])
def test_indices_that_do_not_ascend_are_found(bad: list[int]) -> None:
    with pytest.raises(ArtifactError, match="they must ascend"):
        TopK.read("w", top_k(bad, [1, 1, 1]), 10)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kept_values_that_are_not_finite_are_found(value: float) -> None:
    with pytest.raises(NotFiniteError, match="tensor w: value 1 is"):
        TopK.read("w", top_k([0, 1], [1, value]), 10)


@pytest.mark.parametrize(
    ("value", "message"), [(math.nan, "value 1 is nan"), (math.inf, "value 1 is inf"), (-0.5, "must not be negative")]
)
def test_scales_that_are_none_are_found(value: float, message: str) -> None:
    with pytest.raises(ArtifactError, match=rf"tensor w\.scale.*{message}"):
        read_scales("w", np.array([1, value], "<f4").view(np.uint8).data)


def test_the_lowest_int8_is_read() -> None:
    entries = {
        "w": np.array([-128, 127], np.int8).view(np.uint8).data,
        "w.scale": np.array([0.5], "<f4").view("u1").data,
    }
    assert decode("w", entries, (2,), "int8").tolist() == [-64.0, 63.5]
