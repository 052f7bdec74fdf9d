"""The header of a tensors file: read as safetensors reads it, and whatever is wrong with it is an ArtifactError."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from umim.artifacts.layout import MOST_HEADER_BYTES, Layout, read_layout
from umim.artifacts.sources import MemorySource, Scratch
from umim.artifacts.writer import DTYPES
from umim.errors import ArtifactError

SMALL = save(
    {
        "encoder.weight": torch.arange(6.0).reshape(2, 3),
        "é": torch.ones((), dtype=torch.float64),
        "none": torch.empty(0, 5, dtype=torch.bfloat16),
        "steps": torch.ones(3, dtype=torch.uint8),
    },
    {"umim": "note"},
)
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def read(data: bytes) -> Layout:
    return read_layout(MemorySource(data), "update.safetensors")


def framed(text: bytes, values: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + values


def with_header(header: Any, count: int = 8) -> bytes:
    return framed(json.dumps(header).encode(), bytes(count))


def with_entry(**changed: Any) -> bytes:
    return with_header({"a": {**ENTRY, **changed}})


def refused(data: bytes) -> str:
    with pytest.raises(ArtifactError, match=r"update\.safetensors") as caught:
        read(data)
    text = str(caught.value)
    text.encode()  # it goes into the round's status
    assert len(text) < 1000
    return text


def agrees_with_safetensors(data: bytes) -> None:
    """Whatever is accepted, safetensors accepts, and reads the same tensors from the same bytes."""
    try:
        layout = read(data)
    except ArtifactError:
        return
    theirs = {name: (entry["shape"], entry["dtype"], bytes(entry["data"])) for name, entry in deserialize(data)}
    ours = {slot.name: (slot.info.shape, slot.info.dtype, data[slot.start : slot.stop]) for slot in layout.slots}
    assert ours == theirs


def test_what_safetensors_writes_is_read() -> None:
    layout = read(SMALL)
    assert [slot.name for slot in layout.slots] == ["é", "encoder.weight", "none", "steps"]
    assert {slot.name: (slot.info.shape, slot.info.dtype, slot.elements) for slot in layout.slots} == {
        "é": ([], "F64", 1),
        "encoder.weight": ([2, 3], "F32", 6),
        "none": ([0, 5], "BF16", 0),
        "steps": ([3], "U8", 3),
    }
    assert list(layout.infos) == ["encoder.weight", "none", "steps", "é"]
    assert layout.by_name["é"].start == layout.data_start
    assert layout.note == "note"
    agrees_with_safetensors(SMALL)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_every_type_is_read(dtype: torch.dtype) -> None:
    layout = read(save({"a": torch.ones(2, 3).to(dtype)}))
    assert (layout.slots[0].info.shape, layout.slots[0].info.dtype) == ([2, 3], DTYPES[dtype])
    assert layout.slots[0].stop - layout.slots[0].start == 6 * dtype.itemsize
    assert layout.note is None


def test_other_metadata_are_no_note() -> None:
    assert read(save({"a": torch.ones(2)}, {"format": "pt"})).note is None


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_a_file_cut_at_any_byte_is_refused(length: int) -> None:
    refused(SMALL[:length])


def test_trailing_bytes_are_refused() -> None:
    assert f"the file has {len(SMALL) + 1} bytes, its header says {len(SMALL)}" in refused(SMALL + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_never_another_error(data: bytes, frame: bool) -> None:
    agrees_with_safetensors(framed(data) if frame else data)


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_what_is_accepted_of_a_damaged_file_is_what_safetensors_reads(at: int, piece: bytes, cut: int) -> None:
    agrees_with_safetensors(SMALL[:at] + piece + SMALL[at + cut :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(["dtype", "shape", "data_offsets", "more"]), JSON)
def test_any_json_in_an_entry_is_never_another_error(field: str, value: Any) -> None:
    agrees_with_safetensors(with_entry(**{field: value}))


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_json_as_the_header_is_never_another_error(value: Any) -> None:
    agrees_with_safetensors(with_header(value, 0))
    agrees_with_safetensors(with_header({"a": value}, 0))
    agrees_with_safetensors(with_header({"a": ENTRY, "__metadata__": value}))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_length_of_the_header_is_refused(length: int) -> None:
    refused(length.to_bytes(8, "little") + SMALL[8:])


class Endless:
    """A source of any size that holds nothing: only a reader that believes the header's length gets here."""

    size = 1 << 60

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:  # noqa: ARG002 - as a Source does
        assert length == 8
        return memoryview((1 << 50).to_bytes(8, "little"))


def test_no_memory_is_taken_for_a_header_that_is_too_large() -> None:
    with pytest.raises(ArtifactError, match=f"at most {MOST_HEADER_BYTES} bytes"):
        read_layout(Endless(), "large")


@pytest.mark.parametrize("piece", [b"{},", b"[],", b'{"":[]},'])
def test_a_header_of_empty_objects_takes_no_more_memory_than_its_bytes(piece: bytes) -> None:
    count = (MOST_HEADER_BYTES - 100) // len(piece)
    data = framed(b'{"a":[' + piece * count + b"0]}")
    tracemalloc.start()
    try:
        message = refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "brackets, at most 400000 are allowed" in message
    assert peak < 2 * MOST_HEADER_BYTES


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data_offsets": [0, 4]}, "tensor 'a' takes 4 bytes, its shape and type 8"),
        ({"data_offsets": [8, 0]}, "tensor 'a' takes -8 bytes"),
        ({"data_offsets": [-8, 0]}, "tensor 'a' starts at byte"),
        ({"data_offsets": [8, 16]}, "tensor 'a' starts at byte"),
        ({"data_offsets": [0, 8.0]}, "not two integers"),
        ({"data_offsets": [False, 8]}, "not two integers"),
        ({"data_offsets": [0, "8"]}, "not two integers"),
        ({"data_offsets": [0, 4, 8]}, "not two integers"),
        ({"data_offsets": [2**64, 2**64 + 8]}, "not two integers"),
        ({"data_offsets": None}, "not two integers"),
        ({"shape": [-2]}, "shape [-2]; allowed are"),
        ({"shape": [2.0]}, "shape [2.0]; allowed are"),
        ({"shape": [True, 2]}, "shape [True, 2]; allowed are"),
        ({"shape": ["2"]}, "shape ['2']; allowed are"),
        ({"shape": 2}, "shape 2; allowed are"),
        ({"shape": [1] * 16 + [2]}, "at most 16 dimensions"),
        ({"shape": [0, 2**64], "data_offsets": [0, 0]}, "allowed are"),
        ({"shape": [2**40, 2**40]}, "its shape and type"),
        ({"dtype": "F8_E4M3"}, "type 'F8_E4M3'"),
        ({"dtype": "f32"}, "type 'f32'"),
        ({"dtype": "F32\n"}, "type 'F32\\n'"),
        ({"dtype": "\ud800"}, "type '\\ud800'"),
        ({"dtype": 1}, "type 1"),
        ({"more": 1}, "tensor 'a' needs dtype, shape and data_offsets"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_tensor(changed: dict[str, Any], reason: str) -> None:
    assert reason in refused(with_entry(**changed))


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_a_missing_field_is_refused(field: str) -> None:
    assert "tensor 'a' needs" in refused(with_header({"a": {key: ENTRY[key] for key in ENTRY if key != field}}))


@pytest.mark.parametrize(("starts", "count"), [([0, 0], 8), ([0, 4], 12), ([0, 12], 20), ([4, 12], 20), ([8, 16], 24)])
def test_tensors_that_overlap_or_have_gaps_are_refused(starts: list[int], count: int) -> None:
    entries = {f"t{start}-{number}": {**ENTRY, "data_offsets": [start, start + 8]} for number, start in
               enumerate(starts)}  # fmt: skip
    assert "was expected" in refused(with_header(entries, count))


def test_the_order_in_the_header_does_not_matter() -> None:
    entries = {name: {**ENTRY, "data_offsets": [start, start + 8]} for name, start in (("b", 8), ("a", 0))}
    assert [slot.name for slot in read(with_header(entries, 16)).slots] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "not with an object"),
        (b" {}", "not with an object"),
        (b"\xef\xbb\xbf{}", "not with an object"),
        ("{}".encode("utf-16"), "not with an object"),
        ("{}".encode("utf-32-le"), ""),
        (b'{"\xff": 1}', "can't decode byte 0xff"),
        (b'{"\xed\xa0\x80": 1}', "can't decode byte 0xed"),
        (b'{"\\ud800": 1}', r"'\ud800' is not Unicode"),
        (b'{"__metadata__": {"umim": "\\udfff"}}', r"'\udfff' is not Unicode"),
        (b'{"__metadata__": {"\\udfff": "text"}}', r"'\udfff' is not Unicode"),
        (b'{"__metadata__": {"umim": 1}}', "__metadata__ is {'umim': 1}, an object of strings is allowed"),
        (b'{"__metadata__": {"umim": {}}}', "an object of strings is allowed"),
        (b'{"__metadata__": ["umim"]}', "__metadata__ is ['umim']"),
        (b'{"a": 1, "a": 1}', "a name is there twice"),
        (b'{"a": {"shape": [1], "shape": [2]}}', "a name is there twice"),
        (b'{"__metadata__": {}, "__metadata__": {}}', "a name is there twice"),
        (b'{"a": {}} {}', "Extra data"),
        (b'{"a": NaN}', "tensor 'a' needs"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"' + b"a" * 1_000_000 + b'": 1}', "tensor 'aaaa"),
        (b"", "not with an object"),
    ],
    ids=range(23),
)
def test_a_header_of_another_form_is_refused(text: bytes, reason: str) -> None:
    assert reason in refused(framed(text))


def test_the_tests_compare_with_a_reader_that_refuses() -> None:
    with pytest.raises(SafetensorError):
        deserialize(SMALL[:-1])
