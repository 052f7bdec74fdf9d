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
from umim.aggregation.engine import Threads
from umim.aggregation.merge import decode_file
from umim.aggregation.updates import BadUpdateError, Update
from umim.api.artifacts import ExclusionReason
from umim.api.round import EncodingSpec
from umim.artifacts.sources import FileSource, MemorySource
from umim.errors import StoreError

PARENT = random_model(0)
GOOD = random_model(1)
STRATEGIES = ("fedavg", "median", "krum", "ties")


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
