"""Files that lie about their size, unfold to terabytes or lead out of the volume: refused by name, within little
memory."""

from __future__ import annotations

import gzip
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.uid import UID, JPEGBaseline8Bit, RLELossless

from tests.memory import MEBIBYTE, little_memory
from tests.unit.data.files import location, pixels, write_dicom, write_nifti, write_png
from umim.api.hospital import DataFormat, Task
from umim.data import dataset, limits, npz
from umim.data.load import load_dataset
from umim.errors import DataError
from umim.evaluation.pack import load_pack

GREY = pixels(0, (4, 16, 16))
LABELS = np.array([0, 1, 0, 1])


def load(path: Path, format: DataFormat, task: Task = "none", table: str | None = None) -> int:
    return len(load_dataset(location(path, format, task, table), 16))


def refused(path: Path, format: DataFormat, *match: str, task: Task = "none", table: str | None = None) -> str:
    """Read what must be refused; return the message, which holds all of ``match``."""
    with little_memory(), pytest.raises(DataError) as caught:
        load(path, format, task, table)
    message = str(caught.value)
    for part in match:
        assert part in message
    return message


# npz


def npy(array: Any = GREY, shape: Any = None, descr: Any = None, tail: bytes | None = None) -> bytes:
    """Return an array as numpy writes it, with another shape or type in its header."""
    header = {"descr": descr or np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape or array.shape})
    return stream.getvalue() + (array.tobytes() if tail is None else tail)


def raw_header(text: str) -> bytes:
    raw = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw


def archive(
    path: Path, compression: int = zipfile.ZIP_STORED, members: dict[str, bytes] | None = None, **more: bytes
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in ((members or {}) | more).items():
            file.writestr(f"{name}.npy", content)
    return path


def claim(path: Path, name: str, file_size: int | None = None, compress_size: int | None = None) -> None:
    """Change the sizes that the archive's directory gives of a member."""
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02", 0, raw.rindex(f"{name}.npy".encode()))
    if compress_size is not None:
        raw[at + 20 : at + 24] = struct.pack("<I", compress_size)
    if file_size is not None:
        raw[at + 24 : at + 28] = struct.pack("<I", file_size)
    path.write_bytes(raw)


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """An archive of a quarter of a megabyte that holds 256 MiB of images."""
    return archive(
        tmp_path / "a.npz", zipfile.ZIP_DEFLATED, images=npy(shape=(256, 1024, 1024), tail=bytes(256 * MEBIBYTE))
    )


def test_an_archive_whose_array_is_larger_than_allowed_is_refused_before_it_is_inflated(
    bomb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umim.data.archive.MOST_ARRAY_BYTES", 255 * MEBIBYTE)
    refused(bomb, "npz", "a.npz: images says how many bytes it has", "allowed are 1 to 267386880")


@pytest.mark.parametrize("shape", [(2**40, 16, 16), (10**18,), (2**31, 2**31, 2**31), (5, 16, 16), (3, 16, 16)])
def test_an_array_whose_header_claims_another_size_than_it_has_is_refused(tmp_path: Path, shape: Any) -> None:
    path = archive(tmp_path / "a.npz", images=npy(shape=shape))
    refused(path, "npz", "a.npz: images is uint8 (", "the archive has 1024")


@pytest.mark.parametrize("shape", [(10**15, 0, 0), (10**15, 16, 0), (10**15, 0)])
def test_an_array_of_many_rows_without_a_value_is_refused(tmp_path: Path, shape: Any) -> None:
    refused(archive(tmp_path / "a.npz", images=npy(shape=shape, tail=b"")), "npz", "rows without a value")


def test_a_member_that_says_it_inflates_to_more_than_deflate_can_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, images=npy(shape=(2**20, 32, 32), tail=b""))
    claim(path, "images", file_size=2**30 + 128)
    refused(path, "npz", "a.npz: images says how many bytes it has: 1073741952")


def test_a_member_that_says_it_is_larger_than_the_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", images=npy(shape=(2**20, 32, 32), tail=b""))
    claim(path, "images", file_size=2**30 + 128, compress_size=2**30 + 128)
    refused(path, "npz", "a.npz: images says how many bytes it has: 1073741952")


def test_a_member_that_says_it_is_smaller_than_it_is_is_refused(bomb: Path) -> None:
    claim(bomb, "images", file_size=128 + 1024)
    with little_memory(), pytest.raises(DataError, match=r"a\.npz"):
        load(bomb, "npz")


@pytest.mark.parametrize(
    ("descr", "type"),
    [("|O", "object"), ([("a", "<i4"), ("b", "<f8")], r"[('a', '<i4'), ('b', '<f8')]"), ("<M8[s]", "datetime64[s]")],
)
def test_an_array_of_neither_numbers_nor_texts_is_refused(tmp_path: Path, descr: Any, type: str) -> None:
    path = archive(tmp_path / "a.npz", images=npy(shape=(4,), descr=descr, tail=bytes(48)))
    refused(path, "npz", f"a.npz: images is {type}; allowed are numbers and texts")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 16, 16)",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 16, 16), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4.0, 16, 16), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -16, 16), }",
        "{'descr': '|u1', 'fortran_order': 0, 'shape': (4, 16, 16), }",
        "{'descr': 'evil', 'fortran_order': False, 'shape': (4, 16, 16), }",
        "{'descr': '|u1', 'shape': (4, 16, 16), }",
        "__import__('os').system('true')",
        "(" * 9000,
        "-" * 9000 + "1",
        "[" * 500 + "]" * 500,
        "'''",
        "\\",
        "\x00",
        " " * 20000,
        "",
    ],
    ids=range(16),
)
def test_an_array_with_a_malformed_header_is_refused(tmp_path: Path, header: str) -> None:
    path = archive(tmp_path / "a.npz", images=raw_header(header) + GREY.tobytes())
    refused(path, "npz", "a.npz")


@pytest.mark.parametrize(
    "content", [b"", b"raw bytes, no array", b"\x93NUMPY", b"\x93NUMPY\x03\x00", b"\x93NUMPY\x09\x09"]
)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    refused(archive(tmp_path / "a.npz", images=content), "npz", "a.npz")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("images.npy", npy())
        file.writestr("images", npy())
    refused(tmp_path / "a.npz", "npz", "a.npz", "it has two arrays 'images'; allowed is one")


@pytest.mark.parametrize(
    "name", ["../../evil.npy", "/etc/evil.npy", "a\\..\\evil.npy", "C:evil.npy", "a/" * 1000 + ".npy"]
)
def test_a_name_that_is_a_path_is_a_name_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr(name, npy())
        file.writestr("images.npy", npy())
    assert load(tmp_path / "a.npz", "npz") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path: Path, compression: int) -> None:
    refused(archive(tmp_path / "a.npz", compression, images=npy()), "npz", "allowed are stored and deflated")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", images=npy())
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    path.write_bytes(raw)
    refused(path, "npz", "a.npz: images is encrypted")


@pytest.mark.parametrize("at", range(60, 1000, 47))
def test_a_damaged_deflated_member_is_refused(tmp_path: Path, at: int) -> None:
    path = archive(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, images=npy())
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)
    refused(path, "npz", "a.npz")


def test_more_images_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MOST_FILES", 3)
    refused(archive(tmp_path / "a.npz", images=npy()), "npz", "a.npz: images has images: 4; allowed are 0 to 3")


def test_images_of_more_pixels_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_PIXELS", 255)
    refused(archive(tmp_path / "a.npz", images=npy()), "npz", "a.npz: images says how many pixels", "(16x16): 256")


def test_more_labels_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (npz, dataset):
        monkeypatch.setattr(module, "MOST_CLASSES", 1)
    path = archive(tmp_path / "a.npz", train_images=npy(), train_labels=npy(LABELS))
    refused(path, "npz", "number of classes: 2; allowed are 1 to 1", task="classification")
    path = archive(tmp_path / "a.npz", train_images=npy(), train_labels=npy(np.ones((4, 2), int)))
    refused(path, "npz", "train_labels has columns: 2; allowed are 1 to 1", task="multilabel")


def test_the_archives_of_an_evaluation_are_read_the_same_way(tmp_path: Path) -> None:
    arrays = {f"{side}_{name}": npy(value) for side in ("train", "test") for name, value in
              (("images", GREY), ("labels", LABELS))}  # fmt: skip
    assert load_pack(archive(tmp_path / "a.npz", members=arrays)).classes == ("0", "1")
    with little_memory(), pytest.raises(DataError, match="test_images is uint8"):
        load_pack(archive(tmp_path / "a.npz", members={**arrays, "test_images": npy(shape=(2**40, 16, 16))}))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    texts = np.array(["a", "bc", "a", "bc"])
    save(tmp_path / "a.npz", train_images=np.asfortranarray(GREY), train_labels=LABELS, train_patients=texts)
    read = load_dataset(location(tmp_path / "a.npz", "npz"), 16)
    assert (read.images[:, 0] == GREY).all()
    assert read.patients.tolist() == [0, 1, 0, 1]


# DICOM


def change_dicom(path: Path, **fields: Any) -> Path:
    header = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in fields.items():
            setattr(header, name, value)
        header.save_as(path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "dicom").mkdir()
    return write_dicom(tmp_path / "dicom" / "a.dcm", np.arange(256, dtype=np.uint16).reshape(16, 16))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"Rows": 65535, "Columns": 65535}, "how many pixels an image has (65535x65535): 4294836225"),
        ({"NumberOfFrames": 2**31 - 1}, "how many frames it has: 2147483647; allowed are 1 to 65536"),
        ({"Rows": 9000, "Columns": 9000, "NumberOfFrames": 60000}, "how many values it has (60000 x 9000x9000 x 1)"),
        ({"Rows": 0}, "how many rows it has: 0"),
        ({"NumberOfFrames": -5}, "how many frames it has: -5"),
        ({"SamplesPerPixel": 60000}, "SamplesPerPixel is 60000; allowed are 1 and 3"),
        ({"Rows": 5000, "Columns": 5000}, "cannot be decoded"),
        ({"NumberOfFrames": 60000}, "cannot be decoded"),
        ({"BitsAllocated": 64000}, "cannot be decoded"),
        ({"BitsStored": 65535}, "cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dicom_file_that_claims_more_than_it_has_is_refused(scan: Path, fields: dict[str, Any], says: str) -> None:
    change_dicom(scan, **fields)
    refused(scan.parent, "dicom", "a.dcm", says)


def deflated(path: Path, content: bytes) -> Path:
    """Replace what follows the file meta information, and say that it is deflated."""
    meta = pydicom.filereader.read_file_meta_info(path)
    meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = True, False
    pydicom.filewriter.write_file_meta_info(stream, meta, enforce_standard=True)
    path.write_bytes(bytes(128) + b"DICM" + stream.getvalue() + content)
    return path


def body(path: Path) -> bytes:
    meta = pydicom.filereader.read_file_meta_info(path)
    return path.read_bytes()[132 + 12 + int(meta.FileMetaInformationGroupLength) :]


def squeeze(*pieces: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(map(packer.compress, pieces)) + packer.flush()


def test_a_deflated_dicom_file_is_read_as_the_plain_one(scan: Path) -> None:
    plain = load_dataset(location(scan.parent, "dicom", "none"), 16).images
    deflated(scan, squeeze(body(scan)))
    assert (load_dataset(location(scan.parent, "dicom", "none"), 16).images == plain).all()


def test_a_deflated_dicom_file_is_inflated_as_far_as_allowed_only(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umim.data.dicom.MOST_INFLATED_BYTES", 4 * MEBIBYTE)
    deflated(scan, squeeze(body(scan), *[bytes(MEBIBYTE)] * 16))
    assert scan.stat().st_size < MEBIBYTE
    refused(scan.parent, "dicom", "a.dcm", "bytes that it inflates to", "allowed are 1 to 4194304")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, squeeze(b"a" * 5000)[:-4]])
def test_a_damaged_deflated_dicom_file_is_refused(scan: Path, content: bytes) -> None:
    refused(deflated(scan, content).parent, "dicom", "a.dcm cannot be read as DICOM")


def compressed(path: Path, syntax: UID, *frames: bytes, **fields: Any) -> Path:
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = syntax
    header.PixelData = encapsulate(list(frames))
    header["PixelData"].is_undefined_length = True
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    for name, value in fields.items():
        setattr(header, name, value)
    header.save_as(path)
    return path


def jpeg(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side), 128).save(stream, "JPEG")
    return stream.getvalue()


def test_an_encapsulated_frame_is_read(scan: Path) -> None:
    compressed(scan, JPEGBaseline8Bit, jpeg(16))
    assert load(scan.parent, "dicom") == 1


@pytest.mark.filterwarnings("ignore")
def test_an_encapsulated_frame_of_another_size_than_the_header_says_is_refused(scan: Path) -> None:
    compressed(scan, JPEGBaseline8Bit, jpeg(512))
    refused(scan.parent, "dicom", "a.dcm", "cannot be decoded")


@pytest.mark.filterwarnings("ignore")
def test_an_encapsulated_frame_that_is_a_decompression_bomb_is_refused(scan: Path) -> None:
    raw = bytearray(jpeg(16))
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", 65000, 65000)
    compressed(scan, JPEGBaseline8Bit, bytes(raw))
    refused(scan.parent, "dicom", "a.dcm", "cannot be decoded", "decompression bomb")


@pytest.mark.filterwarnings("ignore")
def test_fewer_encapsulated_frames_than_the_header_says_are_refused(scan: Path) -> None:
    compressed(scan, JPEGBaseline8Bit, jpeg(16), NumberOfFrames=5000)
    refused(scan.parent, "dicom", "a.dcm", "cannot be decoded")


def test_a_run_length_that_unfolds_to_more_than_the_header_says_is_refused(scan: Path) -> None:
    segment = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 500_000  # 1 MB that stands for 64 MB
    compressed(scan, RLELossless, segment)
    refused(scan.parent, "dicom", "a.dcm: bytes of its RLE frames", "allowed are 1 to 1536")


@pytest.mark.filterwarnings("ignore")
def test_deeply_nested_sequences_are_refused(scan: Path) -> None:
    nested = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff"
    raw = scan.read_bytes()
    start = len(raw) - len(body(scan))
    opening = b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff"
    scan.write_bytes(raw[:start] + opening + nested * 5000)
    with little_memory(64 * MEBIBYTE), pytest.raises(DataError, match=r"a\.dcm"):
        load(scan.parent, "dicom")


def test_elements_that_pixels_do_not_need_are_not_kept(scan: Path) -> None:
    change_dicom(scan, PatientName="Doe^Jane", PatientComments="x" * 9000)
    from umim.data.dicom import _read

    assert sorted(element.keyword for element in _read(scan)).count("PatientName") == 0
    assert load(scan.parent, "dicom") == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("share", range(1, 20))
def test_a_dicom_file_cut_off_anywhere_is_refused(scan: Path, share: int) -> None:
    raw = scan.read_bytes()
    scan.write_bytes(raw[: len(raw) * share // 20])
    with pytest.raises(DataError, match=r"a.dcm|holds no image"):
        load(scan.parent, "dicom")


# NIfTI


def nifti(path: Path, packed: bytes = b"", **fields: Any) -> Path:
    """Write a small volume and change fields of its header; ``packed`` follows what is there."""
    write_nifti(path.with_suffix("").with_suffix(".nii"), np.arange(4096, dtype=np.int16).reshape(16, 16, 16))
    raw = bytearray(path.with_suffix("").with_suffix(".nii").read_bytes())
    places = {"dim": (40, "<8h"), "vox_offset": (108, "<f"), "datatype": (70, "<h"), "bitpix": (72, "<h")}
    for name, value in fields.items():
        at, form = places[name]
        struct.pack_into(form, raw, at, *np.atleast_1d(value).tolist())
    path.with_suffix("").with_suffix(".nii").unlink()
    path.write_bytes(gzip.compress(bytes(raw) + packed) if path.name.endswith(".gz") else bytes(raw) + packed)
    return path


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "how many pixels an image has (32767x32767)"),
        ({"dim": (3, 1024, 1024, 1024, 1, 1, 1, 1)}, "how many values it has"),
        ({"dim": (3, -16, 16, 16, 1, 1, 1, 1)}, "allowed are volumes (X, Y, Z) of numbers"),
        ({"dim": (3, 0, 16, 16, 1, 1, 1, 1)}, "allowed are volumes (X, Y, Z) of numbers"),
        ({"dim": (4, 16, 16, 16, 30000, 1, 1, 1)}, "(16, 16, 16, 30000); allowed are volumes (X, Y, Z)"),
        ({"dim": (0, 16, 16, 16, 1, 1, 1, 1)}, "v.nii"),
        ({"dim": (77, 16, 16, 16, 1, 1, 1, 1)}, "cannot be read as NIfTI"),
        ({"vox_offset": 2.0**40}, "bytes before the voxels"),
        ({"vox_offset": float("nan")}, "v.nii"),
        ({"vox_offset": -1000.0}, "v.nii"),
        ({"datatype": 128, "bitpix": 24}, "allowed are volumes (X, Y, Z) of numbers"),
        ({"datatype": 9999}, "cannot be read as NIfTI"),
        ({"dim": (3, 512, 512, 512, 1, 1, 1, 1)}, "v.nii"),
    ],
    ids=range(13),
)
@pytest.mark.filterwarnings("ignore")
def test_a_volume_that_claims_more_than_it_has_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], says: str
) -> None:
    nifti(tmp_path / name, **fields)
    with little_memory(), pytest.raises(DataError, match=r"v\.nii") as caught:
        load(tmp_path, "nifti")
    assert says in str(caught.value)


def test_a_volume_that_is_larger_than_its_file_is_refused_by_name_and_number(tmp_path: Path) -> None:
    nifti(tmp_path / "v.nii", dim=(3, 512, 512, 512, 1, 1, 1, 1))
    refused(tmp_path, "nifti", "v.nii: bytes that its header says it has: 268435808; allowed are 1 to 8544")


def test_what_follows_the_voxels_is_not_inflated(tmp_path: Path) -> None:
    nifti(tmp_path / "v.nii.gz", packed=bytes(256 * MEBIBYTE))
    with little_memory():
        assert load(tmp_path, "nifti") > 0


@pytest.mark.filterwarnings("ignore")
def test_extensions_that_claim_much_are_not_read_into_memory(tmp_path: Path) -> None:
    nifti(tmp_path / "v.nii.gz", packed=bytes(256 * MEBIBYTE), vox_offset=1e9)
    refused(tmp_path, "nifti", "v.nii.gz: bytes before the voxels: 1000000000")


def test_another_format_under_the_name_of_a_volume_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "v.mgh")
    (tmp_path / "v.mgh").rename(tmp_path / "v.nii")
    refused(tmp_path, "nifti", "v.nii cannot be read as NIfTI: it has no header of NIfTI-1 or NIfTI-2")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_are_read(tmp_path: Path, kind: Any) -> None:
    values = np.random.default_rng(0).normal(500, 100, (16, 16, 4, 1)).astype(np.float32)
    nibabel.save(kind(values, np.eye(4)), tmp_path / "v.nii.gz")
    assert load(tmp_path, "nifti") == 4


# image files


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + struct.pack(">I", len(data) - 4)
        + data
        + struct.pack(">I", zlib.crc32(data))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("width", "height", "says"),
    [
        (9460, 9459, "a.png says how many pixels an image has (9460x9459): 89482140; allowed are 1 to 89478485"),
        (89_478_486, 1, "a.png says how many columns it has"),
        (20000, 20000, "a.png cannot be read as an image: Image size (400000000 pixels) exceeds limit"),
        (2**31 - 1, 2**31 - 1, "a.png cannot be read as an image"),
    ],
)
def test_an_image_of_more_pixels_than_allowed_is_refused_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, says: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height))
    refused(tmp_path, "imagefolder", says)


def test_the_limit_of_pixels_is_where_pillow_begins_to_warn() -> None:
    assert Image.MAX_IMAGE_PIXELS == limits.MOST_PIXELS


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_a_file_of_several_images_is_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    refused(tmp_path, "imagefolder", f"{name} cannot be read as an image: it holds several images; allowed is one")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.bmp", "a.jpg"])
def test_a_file_of_one_image_is_read(tmp_path: Path, name: str) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / name)
    assert load(tmp_path, "imagefolder") == 1


@pytest.mark.parametrize("format", ["GIF", "EPS", "PPM", "ICO", "PDF"])
def test_another_format_under_the_name_of_an_image_is_refused(tmp_path: Path, format: str) -> None:
    Image.fromarray(pixels(0)).save(tmp_path / "a.png", format)
    refused(tmp_path, "imagefolder", "a.png cannot be read as an image")


def test_no_program_is_started_for_postscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    refused(tmp_path, "imagefolder", "a.png cannot be read as an image")


def test_a_text_in_an_image_that_unfolds_is_refused(tmp_path: Path) -> None:
    text = b"zTXtkey\0\0" + zlib.compress(bytes(64 * MEBIBYTE))
    raw = png(16, 16)
    at = raw.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(raw[:at] + chunk + raw[at:])
    refused(tmp_path, "imagefolder", "a.png cannot be read as an image")


# places


FORMATS: list[tuple[DataFormat, str]] = [("imagefolder", "x.png"), ("dicom", "x.dcm"), ("nifti", "x.nii")]


def write(format: DataFormat, path: Path) -> Path:
    if format == "imagefolder":
        return write_png(path, pixels(0))
    if format == "dicom":
        return write_dicom(path, pixels(0))
    return write_nifti(path, np.random.default_rng(0).normal(500, 100, (16, 16, 4)).astype(np.float32))


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_a_link_to_a_file_outside_the_data_folder_is_refused(tmp_path: Path, format: DataFormat, name: str) -> None:
    write(format, tmp_path / "outside" / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).symlink_to(tmp_path / "outside" / name)
    refused(tmp_path / "data", format, name, "is a link that leaves the data folder")


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_a_class_folder_that_links_outside_is_refused(tmp_path: Path, format: DataFormat, name: str) -> None:
    write(format, tmp_path / "outside" / name)
    write(format, tmp_path / "data" / "a" / name)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "outside")
    refused(tmp_path / "data", format, "is a link that leaves the data folder", task="classification")


def test_a_link_inside_the_data_folder_is_read_and_one_to_a_folder_deeper_down_is_passed_over(tmp_path: Path) -> None:
    write_png(tmp_path / "data" / "store" / "x.png", pixels(0))
    (tmp_path / "data" / "y.png").symlink_to(tmp_path / "data" / "store" / "x.png")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert load(tmp_path / "data", "imagefolder") == 2


@pytest.mark.parametrize(("format", "name"), [*FORMATS, ("npz", "x.npz")])
@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path: Path, format: DataFormat, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        load(tmp_path, format)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("../../../../etc/passwd", "leaves the data folder"),
        ("a/../../x.png", "leaves the data folder"),
        ("/etc/passwd", "leaves the data folder"),
        ("/dev/zero", "leaves the data folder"),
        ("/proc/self/environ", "leaves the data folder"),
        ("out.png", "leaves the data folder"),
        ("zero.png", "leaves the data folder"),
        ("circle.png", "row 2"),
        ("x\0.png", "row 2"),
        ("x" * 5000, "row 2"),
        ("x/" * 3000, "row 2"),
        ("pipe.png", "is a device or pipe"),
        ("~/x.png", "does not exist"),
        ("file:///etc/passwd", "does not exist"),
        ("..\\..\\x.png", "does not exist"),
        ("", "is empty"),
    ],
    ids=range(16),
)
@pytest.mark.timeout(60)
def test_a_path_of_the_table_that_leaves_the_data_folder_is_refused(tmp_path: Path, row: str, says: str) -> None:
    root = tmp_path / "data"
    write_png(tmp_path / "outside.png", pixels(0))
    write_png(root / "x.png", pixels(0))
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "circle.png").symlink_to(root / "circle.png")
    os.mkfifo(root / "pipe.png")
    (root / "l.csv").write_text(f'file,mask\n"{row}",x.png\n')
    refused(root, "imagefolder", says, table="l.csv")
    if row:
        (root / "l.csv").write_text(f'file,mask\nx.png,"{row}"\n')
        refused(root, "imagefolder", "row 2: mask", task="segmentation", table="l.csv")


@pytest.mark.parametrize("name", ["../l.csv", "/etc/passwd", "/dev/zero", "pipe", "out.csv", "x\0", "x" * 5000])
@pytest.mark.timeout(60)
def test_a_labels_file_that_leaves_the_data_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "l.csv").write_text("file\n")
    (tmp_path / "data" / "out.csv").symlink_to(tmp_path / "l.csv")
    os.mkfifo(tmp_path / "data" / "pipe")
    refused(tmp_path / "data", "imagefolder", "spec.data.labelsFile", table=name)


def test_a_table_of_one_endless_line_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "l.csv").open("wb") as file:
        file.truncate(limits.MOST_TABLE_BYTES + 1)  # a hole: it takes no disk
    refused(tmp_path, "imagefolder", "l.csv: size in bytes", table="l.csv")


def test_a_table_that_names_a_folder_many_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umim.data.entries.MOST_FILES", 10)
    for index in range(4):
        write_png(tmp_path / "a" / f"{index}.png", pixels(index))
    (tmp_path / "l.csv").write_text("file\n" + "a\n" * 3)
    refused(tmp_path, "imagefolder", "l.csv: number of files: 11; allowed are 1 to 10", table="l.csv")


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umim.data.entries.MOST_FILES", 3)
    for index in range(4):
        write_png(tmp_path / f"{index}.png", pixels(index))
    refused(tmp_path, "imagefolder", "number of files: 4; allowed are 1 to 3")


def test_what_may_leave_the_hospital_of_a_refusal_names_no_file(scan: Path) -> None:
    change_dicom(scan, NumberOfFrames=2**31 - 1)
    with pytest.raises(DataError) as caught:
        load(scan.parent, "dicom")
    assert caught.value.public == limits.PUBLIC
    assert "a.dcm" not in caught.value.public
