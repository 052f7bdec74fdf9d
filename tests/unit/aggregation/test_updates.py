"""Bad updates: found while they are merged, named with the reason, and left out by whoever asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.unit.aggregation.files import Tensors, merge, random_model, source, spec, update
from umim.aggregation.merge import decode_file
from umim.aggregation.updates import BadUpdateError, Update
from umim.api.artifacts import ExclusionReason
from umim.api.round import EncodingSpec
from umim.artifacts.memory import MemoryStore
from umim.artifacts.sources import MemorySource, Scratch, Source, StoredSource
from umim.errors import StoreError

PARENT = random_model(0)
GOOD = random_model(1)
STRATEGIES = ("fedavg", "median", "krum", "ties")


class Counted:
    """A source that counts how often it was read from the start."""

    def __init__(self, source: Source) -> None:
        self.size = source.size
        self.passes = 0
        self._source = source

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        self.passes += offset == 0
        return self._source.read(offset, length, buffer)


class Turning:
    """A source that has other bytes after the first pass."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.passes = 0
        self.later = b""
        self._data = data

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        self.passes += offset == 0
        return MemorySource(self._data if self.passes < 2 else self.later).read(offset, length, buffer)


class Down:
    """A source whose store stops to answer."""

    def __init__(self, source: Source) -> None:
        self.size = source.size
        self._source = source

    def read(self, offset: int, length: int, buffer: Scratch) -> memoryview:
        if offset > 1000:
            raise StoreError("the store does not answer")
        return self._source.read(offset, length, buffer)


def with_value(value: float) -> Tensors:
    return {**GOOD, "small": torch.tensor([0.0, 1.0, value, 0.0, 0.0, 0.0, 0.0])}


def committed(data: bytes) -> Update:
    """An update of these bytes, whatever they are."""
    return Update("bad", 5, MemorySource(data), hashlib.sha256(data).hexdigest())


def changed(change: Callable[[bytearray], object]) -> Update:
    """An update whose bytes have changed since they were committed."""
    data = bytearray(save(dict(GOOD)))
    digest = hashlib.sha256(data).hexdigest()
    change(data)
    return Update("bad", 5, MemorySource(data), digest)


def reordered() -> bytes:
    """A valid file with the tensors in another order than safetensors writes."""
    header: dict[str, object] = {}
    body = b""
    for name in sorted(GOOD, key=lambda name: (GOOD[name].element_size(), name)):
        raw = GOOD[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}[GOOD[name].dtype]
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(GOOD[name].shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def set_nan(data: bytearray) -> None:
    place = len(save(dict(GOOD))) - 40
    data[place : place + 8] = b"\xff" * 8


def lost(name: str) -> Tensors:
    return {key: value for key, value in GOOD.items() if key != name}


BAD: list[tuple[str, Update, ExclusionReason, str]] = [
    ("not a number", update("bad", with_value(float("nan"))), "NotFinite", "tensor small holds values that are not"),
    ("infinite", update("bad", with_value(float("-inf"))), "NotFinite", "tensor small holds values that are not"),
    ("empty", committed(b""), "TensorsMismatch", "has 0 bytes"),
    ("no header", committed(b"not safetensors at all"), "TensorsMismatch", "header"),
    ("truncated", committed(save(dict(GOOD))[:-5]), "TensorsMismatch", "its header says"),
    ("longer", committed(save(dict(GOOD)) + b"more"), "TensorsMismatch", "its header says"),
    ("reordered", committed(reordered()), "TensorsMismatch", "lies where safetensors writes"),
    ("lacks a tensor", update("bad", lost("small")), "TensorsMismatch", "lacks tensor small"),
    ("has one too many", update("bad", {**GOOD, "x": torch.zeros(1)}), "TensorsMismatch", "superfluous tensor x"),
    ("another shape", update("bad", {**GOOD, "small": torch.zeros(8)}), "TensorsMismatch", "tensor small is F32"),
    ("another type", update("bad", {**GOOD, "steps": torch.tensor(1.0)}), "TensorsMismatch", "tensor steps is F32"),
    (
        "changed",
        changed(lambda data: data.__setitem__(-30, data[-30] ^ 1)),
        "DigestMismatch",
        "the tensors have sha256",
    ),
    ("changed last byte", changed(lambda data: data.__setitem__(-1, 1 - data[-1])), "DigestMismatch", "sha256"),
    ("changed to NaN", changed(set_nan), "DigestMismatch", "the tensors have sha256"),
    ("changed header", changed(lambda data: data.__setitem__(12, 255)), "DigestMismatch", "the tensors have sha256"),
    ("changed length", changed(lambda data: data.__setitem__(5, 255)), "DigestMismatch", "the tensors have sha256"),
    ("cut", changed(lambda data: data.__delitem__(slice(-9, None))), "DigestMismatch", "the tensors have sha256"),
    ("emptied", changed(bytearray.clear), "DigestMismatch", "the tensors have sha256"),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("bad", "reason", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_update_is_named_with_the_reason(
    bad: Update, reason: ExclusionReason, words: str, strategy: str, tmp_path: Path
) -> None:
    updates = [update("a", GOOD), bad, update("c", random_model(2))]
    with pytest.raises(BadUpdateError, match=words) as found:
        merge(PARENT, updates, tmp_path, spec(strategy, {"density": 0.5} if strategy == "ties" else None))
    assert (found.value.site, found.value.reason) == ("bad", reason)
    assert list(tmp_path.iterdir()) == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")] == []


def test_an_update_with_coefficient_0_is_not_read_again(tmp_path: Path) -> None:
    far = update("far", random_model(3, scale=100.0))
    reads = Counted(far.source)
    updates = [update("a", GOOD), update("b", GOOD), Update("far", 10, reads, far.digest), update("g", GOOD)]
    merge(PARENT, updates, tmp_path, spec("krum"))
    assert reads.passes == 1


@pytest.mark.parametrize("change", [set_nan, bytearray.clear])
def test_an_update_that_turns_bad_between_two_passes_is_named(
    change: Callable[[bytearray], object], tmp_path: Path
) -> None:
    data = bytearray(save(dict(GOOD)))
    turning = Turning(bytes(data))
    digest = hashlib.sha256(data).hexdigest()
    change(data)
    turning.later = bytes(data)
    updates = [update("a", GOOD), Update("bad", 10, turning, digest), update("c", random_model(2))]
    settings = spec("geometric-median")
    with pytest.raises(BadUpdateError, match=r"the tensors have sha256|ends at byte") as found:
        merge(PARENT, updates, tmp_path, settings)
    assert (found.value.site, found.value.reason) == ("bad", "DigestMismatch")
    assert turning.passes >= 2


def test_the_stores_errors_pass_through(tmp_path: Path) -> None:
    updates = [update("a", GOOD), Update("down", 10, Down(MemorySource(save(dict(GOOD)))), "0" * 64)]
    with pytest.raises(StoreError, match="the store does not answer"):
        merge(PARENT, updates, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_update_whose_digest_is_known_to_be_right_is_not_hashed(tmp_path: Path) -> None:
    found = merge(PARENT, [update("a", GOOD, digest=None)], tmp_path)
    assert (
        found.model.digest
        == hashlib.sha256(save({**GOOD, "steps": PARENT["steps"], "mask": PARENT["mask"]})).hexdigest()
    )


@pytest.mark.parametrize("threads", [1, 8])
def test_the_first_bad_update_is_not_hidden_by_others(threads: int, tmp_path: Path) -> None:
    bad = [update(f"bad-{n}", with_value(float("inf"))) for n in range(3)]
    with pytest.raises(BadUpdateError) as found:
        merge(PARENT, bad, tmp_path, spec("median"), threads)
    assert found.value.site == "bad-0"


def test_an_object_that_is_shorter_than_its_manifest_says_is_named(tmp_path: Path) -> None:
    store, data = MemoryStore(), save(dict(GOOD))
    store.put("update", data[:-300])
    stored = StoredSource(store, "update", len(data), 1 << 20)
    with pytest.raises(BadUpdateError, match="update ends at byte") as found:
        merge(PARENT, [Update("bad", 1, stored, hashlib.sha256(data).hexdigest())], tmp_path)
    assert found.value.reason == "DigestMismatch"


def test_an_encoding_of_another_format_is_named(tmp_path: Path) -> None:
    bad = update("bad", GOOD, encoding=EncodingSpec(format="bf16"))
    with pytest.raises(BadUpdateError, match="encoding bf16 of the parent's is BF16") as found:
        merge(PARENT, [bad], tmp_path)
    assert found.value.reason == "TensorsMismatch"


@pytest.mark.parametrize(("bad", "reason"), [(case[1], case[2]) for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_teacher_is_named(bad: Update, reason: ExclusionReason, tmp_path: Path) -> None:
    with pytest.raises(BadUpdateError) as found:
        decode_file(source(PARENT), bad, tmp_path / "teacher")
    assert (found.value.site, found.value.reason) == ("bad", reason)
    assert list(tmp_path.iterdir()) == []
