"""Every bad update is excluded with a reason that names the cause, and never takes the others down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.aggregation.conftest import UID, Federation, Tensors
from umim import contract
from umim.aggregation.validation import HEADER_ALLOWANCE_BYTES
from umim.api.artifacts import Exclusion
from umim.artifacts.memory import MemoryStore
from umim.errors import AccessDeniedError, ConfigError, StoreError

BAD = "hospital-b.bad"
GOOD = "hospital-a.good"


def plain() -> dict[str, torch.Tensor]:
    return {"encoder.weight": torch.ones(2, 3), "encoder.bias": torch.zeros(3), "steps": torch.tensor(7)}


def without(name: str) -> Tensors:
    return {key: value for key, value in plain().items() if key != name}


def with_value(value: float) -> Tensors:
    tensors = plain()
    tensors["encoder.weight"][1, 2] = value
    return tensors


def outcome(federation: Federation, tmp_path: Path) -> list[Exclusion]:
    """Aggregate and return the exclusions; the good site's update must have gone through."""
    result = federation.aggregate()
    assert result.model_digest is not None
    return result.exclusions


def edit_manifest(federation: Federation, **changes: Any) -> None:
    key = contract.update_manifest_key(UID, BAD, 1)
    document = json.loads(federation.store.get(key))
    for path, value in changes.items():
        target = document
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    federation.store.put(key, json.dumps(document).encode())


def overwrite(federation: Federation, data: bytes) -> None:
    federation.store.put(contract.update_key(UID, BAD, 1), data)


BAD_TENSORS: dict[str, tuple[Tensors, str, str]] = {
    "missing tensor": (without("encoder.bias"), "TensorsMismatch", "the update lacks tensor encoder.bias"),
    "superfluous tensor": (
        {**plain(), "head.weight": torch.ones(1)},
        "TensorsMismatch",
        "the update has a superfluous tensor head.weight",
    ),
    "wrong shape": (
        {**plain(), "encoder.bias": torch.zeros(4)},
        "TensorsMismatch",
        "the update: tensor encoder.bias is F32[4], the parent's is F32[3]",
    ),
    "wrong type": (
        {**plain(), "encoder.bias": torch.zeros(3, dtype=torch.float64)},
        "TensorsMismatch",
        "the update: tensor encoder.bias is F64[3], the parent's is F32[3]",
    ),
    "not a number": (with_value(float("nan")), "NotFinite", "tensor encoder.weight holds values that are not finite"),
    "infinity": (with_value(float("inf")), "NotFinite", "tensor encoder.weight holds values that are not finite"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_excluded(federation: Federation, tmp_path: Path, case: str) -> None:
    tensors, reason, message = BAD_TENSORS[case]
    federation.start(plain())
    federation.commit(GOOD, plain())
    federation.commit(BAD, tensors)
    assert outcome(federation, tmp_path) == [
        Exclusion.model_validate({"site": BAD, "reason": reason, "message": message})
    ]


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "another round": ({"roundUid": "u2"}, "WrongRound", "roundUid is u2, it must be u1"),
    "another site": ({"site": GOOD}, "WrongRound", f"site is {GOOD}, it must be {BAD}"),
    "another attempt": ({"attempt": 2}, "WrongRound", "attempt is 2, it must be 1"),
    "another parent": ({"parentDigest": "e" * 64}, "WrongParent", f"parentDigest is {'e' * 64}, it must be"),
    "another architecture": ({"architecture": "swin"}, "WrongArchitecture", "architecture is swin, it must be vit"),
    "another image size": ({"imageSize": 96}, "WrongArchitecture", "imageSize is 96, it must be 64"),
    "no samples": ({"samples": 0}, "NoSamples", "samples: Input should be greater than or equal to 1"),
    "samples beyond 64 bits": ({"samples": 2**63}, "NoSamples", "samples: Value error"),
    "negative samples": ({"samples": -5}, "NoSamples", "samples: Input should be greater than or equal to 1"),
    "a metric that is no number": (
        {"metrics": {"loss": float("nan")}},
        "ManifestInvalid",
        "metrics.loss: Input should be a finite",
    ),
    "an unknown field": ({"patients": ["x"]}, "ManifestInvalid", "patients: Extra inputs"),
    "an unknown encoding": ({"encoding": "gzip"}, "ManifestInvalid", "encoding: Input should be 'full'"),
    "another encoding": ({"encoding": "delta"}, "WrongEncoding", "encoding is delta, it must be full"),
    "another key": ({"file__key": "rounds/u1/x"}, "ManifestInvalid", "file.key is rounds/u1/x, it must be rounds/u1/s"),
    "another digest": ({"file__digest": "e" * 64}, "DigestMismatch", f"file.digest is {'e' * 64}, it must be"),
    "other tensors": (
        {"file__tensors": {"encoder.bias": {"shape": [3], "dtype": "F32"}}},
        "TensorsMismatch",
        "the update lacks tensor encoder.weight",
    ),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests_are_excluded(federation: Federation, tmp_path: Path, case: str) -> None:
    changes, reason, message = BAD_MANIFESTS[case]
    federation.start(plain())
    federation.commit(GOOD, plain())
    federation.commit(BAD, plain())
    edit_manifest(federation, **changes)
    (exclusion,) = outcome(federation, tmp_path)
    assert (exclusion.site, exclusion.reason) == (BAD, reason)
    assert message in exclusion.message


BAD_FILES: dict[str, tuple[Callable[[Federation], object], str, str]] = {
    "no manifest": (
        lambda federation: federation.store.delete(contract.update_manifest_key(UID, BAD, 1)),
        "ManifestInvalid",
        "attempt 1 has no manifest",
    ),
    "manifest that is no JSON": (
        lambda federation: federation.store.put(contract.update_manifest_key(UID, BAD, 1), b"{"),
        "ManifestInvalid",
        "Invalid JSON",
    ),
    "no tensors file": (
        lambda federation: federation.store.delete(contract.update_key(UID, BAD, 1)),
        "ManifestInvalid",
        "which does not exist",
    ),
    "changed after the commit": (lambda federation: overwrite(federation, b"other"), "DigestMismatch", "have sha256"),
    "far too large": (
        lambda federation: overwrite(federation, bytes(HEADER_ALLOWANCE_BYTES + 1000)),
        "TooLarge",
        "bytes, at most",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_excluded(federation: Federation, tmp_path: Path, case: str) -> None:
    damage, reason, message = BAD_FILES[case]
    federation.start(plain())
    federation.commit(GOOD, plain())
    federation.commit(BAD, plain())
    damage(federation)
    (exclusion,) = outcome(federation, tmp_path)
    assert (exclusion.site, exclusion.reason) == (BAD, reason)
    assert message in exclusion.message


def test_a_file_that_is_no_tensors_file_is_excluded(federation: Federation, tmp_path: Path) -> None:
    federation.start(plain())
    federation.commit(GOOD, plain())
    federation.commit(BAD, plain())
    data = b"not a safetensors file at all"
    overwrite(federation, data)
    digest = federation.store.download(contract.update_key(UID, BAD, 1), tmp_path / "copy")
    edit_manifest(federation, file__digest=digest)
    federation.updates[1] = federation.updates[1].model_copy(update={"digest": digest})
    (exclusion,) = outcome(federation, tmp_path)
    assert exclusion.reason == "TensorsMismatch"
    assert "no safetensors file" in exclusion.message


def test_a_site_that_is_named_twice_is_refused(federation: Federation, tmp_path: Path) -> None:
    federation.start(plain())
    federation.commit(GOOD, plain())
    federation.updates.append(federation.updates[0].model_copy(update={"attempt": 2}))
    with pytest.raises(ConfigError, match=f"updates: site {GOOD} is named 2 times"):
        federation.aggregate()


@pytest.mark.parametrize("error", [StoreError, AccessDeniedError])
def test_a_failing_store_is_no_reason_to_exclude_a_hospital(tmp_path: Path, error: type[StoreError]) -> None:
    class Failing(MemoryStore):
        def read_range(self, key: str, offset: int, length: int) -> bytes:
            if "/sites/" in key and key.endswith(".safetensors"):
                raise error("the store does not answer")
            return super().read_range(key, offset, length)

    federation = Federation(Failing(), tmp_path / "federation")
    federation.start(plain())
    federation.commit(GOOD, plain())
    with pytest.raises(error, match="does not answer"):
        federation.aggregate()
