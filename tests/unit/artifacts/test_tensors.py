"""Tensors files: equal tensors give equal bytes, and what comes back is what went in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from umim.artifacts.files import sha256_of
from umim.artifacts.tensors import open_safetensors, read_header, read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.errors import ArtifactError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@pytest.mark.parametrize(("dtype", "name"), DTYPES.items(), ids=DTYPES.values())
def test_every_type_comes_back(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    tensors = {"scalar": torch.ones((), dtype=dtype), "empty": torch.ones((0, 3), dtype=dtype)}
    tensors["matrix"] = torch.arange(6).reshape(2, 3).to(dtype)
    write_safetensors(tensors, tmp_path / "file")
    header = read_header(tmp_path / "file")
    assert {key: info.shape for key, info in header.items()} == {"empty": [0, 3], "matrix": [2, 3], "scalar": []}
    assert {info.dtype for info in header.values()} == {name}
    back = read_safetensors(tmp_path / "file")
    assert all(torch.equal(back[key], tensors[key]) and back[key].dtype == dtype for key in tensors)


@settings(max_examples=25, deadline=None)
@given(st.permutations([f"layer.{number}" for number in range(5)]))
def test_the_digest_does_not_depend_on_the_order_of_the_names(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    tensors = {name: torch.full((3,), float(name[-1])) for name in names}
    expected = write_safetensors({name: tensors[name] for name in sorted(names)}, folder / "a")
    assert write_safetensors(tensors, folder / "b").digest == expected.digest


def test_the_written_file_is_described(tmp_path: Path) -> None:
    written = write_safetensors({"a": torch.zeros(3)}, tmp_path / "deep" / "file")
    assert written.digest == sha256_of(written.path)
    assert written.size_bytes == written.path.stat().st_size
    assert [path.name for path in written.path.parent.iterdir()] == ["file"]


def test_views_strides_and_shared_memory_are_written_as_plain_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "same": base, "column": base[:, 1], "transposed": base.T, "row": base[1]}
    write_safetensors(tensors, tmp_path / "views")
    plain = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    write_safetensors(plain, tmp_path / "plain")
    assert sha256_of(tmp_path / "views") == sha256_of(tmp_path / "plain")


def test_parameters_that_need_gradients_are_written(tmp_path: Path) -> None:
    write_safetensors({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "file")
    assert torch.equal(read_safetensors(tmp_path / "file")["a"], torch.ones(2))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_safetensors({}, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (10**9).to_bytes(8, "little") + b"{}"])
def test_a_file_of_another_kind_is_an_artifact_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArtifactError, match="file is no readable safetensors file"):
        read_header(tmp_path / "file")


def test_a_truncated_file_is_an_artifact_error(tmp_path: Path) -> None:
    write_safetensors({"a": torch.zeros(100)}, tmp_path / "file")
    (tmp_path / "cut").write_bytes((tmp_path / "file").read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="cut is no readable"):
        read_header(tmp_path / "cut")


def test_a_missing_file_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="none"):
        read_header(tmp_path / "none")


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    write_safetensors({"a": torch.zeros(1)}, tmp_path / "file")
    with open_safetensors(tmp_path / "file") as reader, pytest.raises(ArtifactError, match="no tensor b"):
        reader.read("b")


def test_a_type_that_no_manifest_can_name_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "file")
    with pytest.raises(ArtifactError, match="tensor a has type F8_E4M3"):
        read_header(tmp_path / "file")
