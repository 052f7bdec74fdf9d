"""Writing tensors files: the bytes of safetensors' own writer, and nothing left behind by a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from umim.api.artifacts import TensorInfo
from umim.artifacts.files import sha256_of
from umim.artifacts.layout import NOTE, plan_layout, read_layout
from umim.artifacts.sources import MappedSource
from umim.artifacts.writer import DTYPES, write_safetensors, writing_tensors

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = TEXT.filter(lambda name: name != "__metadata__")
AWKWARD = [
    "",
    " ",
    '"',
    "\\",
    "a.b",
    "a/b",
    "\x00",
    "\n\t\b\f\r\x1f\x7f",
    "é",
    "e\u0301",
    "漢字",
    "🩻",
    "\u2028",
    "\ufeff",
]
INFOS = {"a": TensorInfo(shape=[2], dtype="F32"), "b": TensorInfo(shape=[3], dtype="U8")}


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors of random bits, of all types and of 0 to 3 dimensions, some of them empty."""
    found = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        dtype, shape = draw(st.sampled_from(list(DTYPES))), draw(st.lists(st.integers(0, 3), max_size=3))
        size = dtype.itemsize * int(torch.tensor(shape).prod())
        raw = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
        bits = raw % 2 if dtype is torch.bool else raw
        found[name] = bits.view(dtype).reshape(shape)
    return found


def write_pieces(path: Path, pieces: Sequence[tuple[str, bytes | None]]) -> None:
    with writing_tensors(path, INFOS) as writer:
        for name, piece in pieces:
            writer.write(name, piece)  # type: ignore[arg-type]  # None stands for any error in the block


def metadata(note: str | None) -> dict[str, str] | None:
    return None if note is None else {NOTE: note}


@settings(max_examples=150, deadline=None)
@given(tensors(), st.none() | TEXT)
def test_the_file_is_that_of_safetensors_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, given_tensors: dict[str, torch.Tensor], note: str | None
) -> None:
    path = tmp_path_factory.mktemp("same") / "file"
    written = write_safetensors(given_tensors, path, note)
    assert path.read_bytes() == save(given_tensors, metadata(note))
    assert (written.digest, written.size_bytes) == (sha256_of(path), path.stat().st_size)
    with MappedSource(path) as source:
        assert read_layout(source, "file") == plan_layout(read_layout(source, "file").infos, note)[0]


@pytest.mark.parametrize("note", [None, "", "a note", 'é"\\\n\x00🩻'])
def test_all_types_and_awkward_names_in_one_file_are_written_as_safetensors_writes_them(
    tmp_path: Path, note: str | None
) -> None:
    given_tensors = {f"{name}{number}": torch.ones(number % 3, 2).to(dtype) for name in AWKWARD for number, dtype in
                     enumerate(DTYPES)}  # fmt: skip
    given_tensors |= {name: torch.ones(()) for name in AWKWARD}
    write_safetensors(given_tensors, tmp_path / "ours", note)
    save_file(given_tensors, tmp_path / "theirs", metadata(note))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_an_empty_view_without_a_stride_is_written(tmp_path: Path) -> None:
    write_safetensors({"a": torch.ones(1).expand(0), "b": torch.ones(1, 1).expand(2, 0)}, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == save({"a": torch.empty(0), "b": torch.empty(2, 0)})


@pytest.mark.parametrize("cuts", [[8], [1, 7], [0, 3, 0, 5]])
def test_any_pieces_give_the_same_file(tmp_path: Path, cuts: list[int]) -> None:
    with writing_tensors(tmp_path / "file", INFOS) as writer:
        for count in cuts:
            writer.write("a", b"\1" * count)
        writer.write("b", memoryview(b"\2" * 3))
    expected = {"a": torch.full((8,), 1, dtype=torch.uint8).view(torch.float32)}
    expected["b"] = torch.full((3,), 2, dtype=torch.uint8)
    assert (tmp_path / "file").read_bytes() == save(expected)
    assert writer.written.digest == sha256_of(tmp_path / "file")


@pytest.mark.parametrize(
    "pieces",
    [
        [("b", b"123")],
        [("a", b"123456789")],
        [("a", b"1234567"), ("b", b"123")],
        [("a", b"12345678"), ("b", b"1234")],
        [("a", b"12345678"), ("b", b"123"), ("a", b"1")],
        [("a", b"12345678"), ("a", b"1")],
    ],
)
def test_a_piece_out_of_turn_is_refused_and_nothing_is_left(tmp_path: Path, pieces: list[tuple[str, bytes]]) -> None:
    with pytest.raises(ValueError, match=rf"tensor {pieces[-1][0]} .* out of turn"):
        write_pieces(tmp_path / "file", pieces)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pieces", [[], [("a", b"12345678")], [("a", b"12345678"), ("b", b"12")]])
def test_missing_values_are_refused_and_an_older_file_stays(tmp_path: Path, pieces: list[tuple[str, bytes]]) -> None:
    (tmp_path / "file").write_bytes(b"older")
    with pytest.raises(ValueError, match="bytes of the tensors were written"):
        write_pieces(tmp_path / "file", pieces)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"older"


def test_after_an_error_in_the_block_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_pieces(tmp_path / "file", [("a", b"12345678"), ("b", None)])
    assert not list(tmp_path.iterdir())


def test_a_file_is_described_only_once_it_is_complete(tmp_path: Path) -> None:
    with writing_tensors(tmp_path / "file", INFOS) as writer:
        writer.write("a", b"12345678")
        with pytest.raises(ValueError, match="file is not complete"):
            _ = writer.written
        writer.write("b", b"123")
    assert writer.written.path == tmp_path / "file"


def test_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"), writing_tensors(tmp_path / "file", {}):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "note"), [("__metadata__", None), ("__metadata__", "text"), ("\ud800", None)])
def test_a_name_that_no_file_can_hold_is_refused_and_nothing_is_left(
    tmp_path: Path, name: str, note: str | None
) -> None:
    with pytest.raises(ValueError, match=r"__metadata__|surrogates"):
        write_safetensors({name: torch.zeros(1)}, tmp_path / "file", note)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_hashed_has_the_same_bytes_and_no_digest(tmp_path: Path) -> None:
    for hashed in (True, False):
        with writing_tensors(tmp_path / str(hashed), INFOS, hashed=hashed) as writer:
            writer.write("a", bytes(8))
            writer.write("b", b"abc")
    assert (tmp_path / "False").read_bytes() == (tmp_path / "True").read_bytes()
    with pytest.raises(ValueError, match="False is not hashed"):
        _ = writer.written
