"""One aggregation from committed updates to a published model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from tests.unit.aggregation.conftest import CREATED, UID, Federation, Tensors, surroundings
from tests.unit.aggregation.files import spec
from umim import contract
from umim.aggregation import run
from umim.api.round import EncodingSpec, Progress
from umim.artifacts.encodings import decode, encode, encoded_infos
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_model
from umim.artifacts.writer import DTYPES, info_of
from umim.entrypoints.aggregate import aggregate
from umim.errors import ArtifactError, ConfigError, StoreError
from umim.training.reporter import Clock

SITES = ("hospital-a.x", "hospital-b.x", "hospital-c.x")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def values(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "large": torch.randn(300, 500, generator=generator).to(dtype),
        "scalar": torch.randn((), generator=generator).to(dtype),
        "steps": torch.tensor(seed),
        "mask": torch.tensor([seed % 2 == 0]),
    }


def fill(federation: Federation, dtype: torch.dtype = torch.float32) -> None:
    federation.start(values(0, dtype))
    for number, site in enumerate(SITES, start=1):
        federation.commit(site, values(number, dtype), samples=number, metrics={"loss_after": float(number)})


def test_the_model_is_published_with_its_lineage(federation: Federation, tmp_path: Path) -> None:
    fill(federation)
    result = federation.aggregate(quorum=3)
    assert result.model_digest is not None
    assert (result.exclusions, result.message) == ([], "")
    manifest = fetch_model(federation.store, result.model_digest, tmp_path / "model")
    assert (manifest.strategy, manifest.parent, manifest.seed) == ("fedavg", federation.parent, 3)
    assert (manifest.round_uid, manifest.created) == ("u1", CREATED)
    assert [(entry.site, entry.samples) for entry in manifest.contributors] == list(zip(SITES, (1, 2, 3), strict=True))
    assert [entry.update_digest for entry in manifest.contributors] == [update.digest for update in federation.updates]
    assert manifest.metrics["loss_after"] == pytest.approx((1 * 1 + 2 * 2 + 3 * 3) / 6)
    assert {"umim", "torch", "safetensors", "python"} <= set(manifest.software)


def test_a_long_merge_shows_live_how_far_it_is(federation: Federation) -> None:
    fill(federation)
    reports: list[Progress] = []
    seconds = itertools.count(0, 3)
    clock = Clock(lambda: CREATED, lambda: next(seconds))
    aggregate(federation.store, federation.config(), replace(surroundings(), sink=reports.append, clock=clock))
    assert [report.step for report in reports] == list(range(1, reports[0].steps + 1))
    assert reports[-1].percent == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_are_the_weighted_mean_in_the_parents_type(
    federation: Federation, tmp_path: Path, dtype: torch.dtype
) -> None:
    fill(federation, dtype)
    result = federation.aggregate()
    merged = federation.merged()
    assert read_model_manifest(federation.store, result.model_digest or "").file.digest == result.model_digest
    updates = [values(number, dtype) for number in (1, 2, 3)]
    for name in ("large", "scalar"):
        stacked = torch.stack([update[name].double() * number for number, update in enumerate(updates, start=1)])
        torch.testing.assert_close(merged[name], (stacked.sum(0) / 6).to(dtype))


def test_integers_and_booleans_keep_the_parents_value(federation: Federation, tmp_path: Path) -> None:
    fill(federation)
    federation.aggregate()
    merged = federation.merged()
    assert merged["steps"].item() == 0
    assert merged["mask"].tolist() == [True]


def test_order_of_arrival_threads_and_time_do_not_change_the_digest(
    federation: Federation, tmp_path: Path, threads: None
) -> None:
    fill(federation)
    digests = set()
    for number, order in enumerate(itertools.permutations(federation.updates)):
        torch.set_num_threads(1 + number % 2)
        created = datetime(2026, 1, 1 + number, tzinfo=UTC)
        result = federation.aggregate(created, updates=list(order), attempt=1 + number)
        digests.add(result.model_digest)
    assert len(digests) == 1
    assert None not in digests


def test_a_single_update_is_the_model(federation: Federation, tmp_path: Path) -> None:
    federation.start(values(0))
    federation.commit(SITES[0], {**values(1), "steps": torch.tensor(0), "mask": torch.tensor([True])})
    result = federation.aggregate()
    assert result.model_digest == federation.updates[0].digest


def test_too_few_valid_updates_give_no_model_and_say_why(federation: Federation, tmp_path: Path) -> None:
    federation.start(values(0))
    federation.commit(SITES[0], values(1))
    federation.commit(SITES[1], {"large": torch.zeros(1)})
    before = federation.store.list("models/")
    result = federation.aggregate(quorum=2)
    assert result.model_digest is None
    assert result.message == "1 of 2 updates are valid, quorum is 2"
    assert [exclusion.site for exclusion in result.exclusions] == [SITES[1]]
    assert federation.store.list("models/") == before


def test_a_metric_is_averaged_over_the_sites_that_let_it_out(federation: Federation, tmp_path: Path) -> None:
    federation.start(values(0))
    federation.commit(SITES[0], values(1), samples=1, metrics={"loss_after": 1.0})
    federation.commit(SITES[1], values(2), samples=3, metrics={"loss_after": 2.0, "dice_after": 0.5})
    federation.commit(SITES[2], values(3), samples=100)
    result = federation.aggregate()
    metrics = read_model_manifest(federation.store, result.model_digest or "").metrics
    assert metrics == pytest.approx({"dice_after": 0.5, "loss_after": 1.75})


def test_a_damaged_parent_stops_the_aggregation(federation: Federation, tmp_path: Path) -> None:
    fill(federation)
    federation.store.put(contract.model_key(federation.parent.digest), b"damaged")
    with pytest.raises(ArtifactError, match=contract.model_key(federation.parent.digest)):
        federation.aggregate()


def test_a_parent_of_another_architecture_is_refused(federation: Federation, tmp_path: Path) -> None:
    fill(federation)
    with pytest.raises(ConfigError, match=r"parent: model .* is vit at 64 pixels, the round trains swin at 64"):
        federation.aggregate(architecture="swin")


ENCODINGS = [
    EncodingSpec(format="delta"),
    EncodingSpec(format="bf16"),
    EncodingSpec(format="int8"),
    EncodingSpec(format="top-k", density=0.1),
]


def encoded(parent: Tensors, trained: Tensors, encoding: EncodingSpec) -> tuple[Tensors, Tensors]:
    """Return the file of an update, and the trained values as whoever reads it sees them."""
    assert encoding.format != "full"
    file, seen = {}, dict(parent)
    infos = encoded_infos({name: info_of(value) for name, value in parent.items()}, encoding.format, encoding.kept)
    for name, before in parent.items():
        if before.is_floating_point():
            change = (trained[name].float() - before.float()).numpy()
            entries = encode(name, change, encoding.format, encoding.kept)
            for entry, raw in entries.items():
                torch_type = next(kind for kind, named in DTYPES.items() if named == infos[entry].dtype)
                file[entry] = torch.frombuffer(bytearray(raw), dtype=torch_type).reshape(infos[entry].shape)
            decoded = torch.tensor(decode(name, entries, tuple(before.shape), encoding.format)).reshape(before.shape)
            seen[name] = before.to(torch.promote_types(before.dtype, torch.float32)) + decoded
    return file, seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.format)
def test_encoded_updates_merge_as_what_they_decode_to(
    federation: Federation, encoding: EncodingSpec, dtype: torch.dtype
) -> None:
    parent = values(0, dtype)
    federation.start(parent)
    decoded = []
    for number, site in enumerate(SITES, start=1):
        file, seen = encoded(parent, values(number, dtype), encoding)
        federation.commit(site, file, encoding=encoding.format)
        decoded.append(seen)
    result = federation.aggregate(aggregation=spec("uniform", encoding=encoding))
    assert result.exclusions == []
    merged = federation.merged()
    for name in ("large", "scalar"):
        expected = torch.stack([one[name].double() for one in decoded]).mean(0)
        torch.testing.assert_close(merged[name], expected.to(dtype))
    assert merged["steps"].item() == 0


def test_changes_in_float32_merge_as_the_values_do(federation: Federation, tmp_path: Path) -> None:
    fill(federation)
    federation.aggregate()
    full = federation.merged()
    other = Federation(MemoryStore(), tmp_path / "other")
    other.start(values(0))
    for number, site in enumerate(SITES, start=1):
        file, _ = encoded(values(0), values(number), ENCODINGS[0])
        other.commit(site, file, samples=number, encoding="delta")
    other.aggregate(aggregation=spec(encoding=ENCODINGS[0]))
    for name, value in other.merged().items():
        torch.testing.assert_close(value, full[name], rtol=1e-6, atol=1e-6)


def test_an_update_in_another_encoding_than_the_rounds_is_left_out(federation: Federation) -> None:
    federation.start(values(0))
    federation.commit(SITES[0], values(1))
    federation.commit(SITES[1], encoded(values(0), values(2), ENCODINGS[0])[0], encoding="delta")
    result = federation.aggregate()
    assert [(one.site, one.reason) for one in result.exclusions] == [(SITES[1], "WrongEncoding")]


def overwrite(federation: Federation, site: str, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a committed update in the store."""
    key = contract.update_key(UID, site, 1)
    federation.store.put(key, change(federation.store.get(key)))


@pytest.mark.parametrize("strategy", ["fedavg", "median", "geometric-median", "ties"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1] + bytes([1 - data[-1]]), "DigestMismatch"),
        (lambda data: data[:20] + b"?" + data[21:], "DigestMismatch"),
        (lambda data: data[:-100], "DigestMismatch"),
        (lambda _: b"", "DigestMismatch"),
        (lambda data: data + bytes(1 << 21), "TooLarge"),
    ],
)
def test_an_update_whose_bytes_changed_is_left_out_and_the_others_are_merged(
    federation: Federation, strategy: str, change: Callable[[bytes], bytes], reason: str
) -> None:
    fill(federation)
    without = federation.aggregate(updates=[federation.updates[0], federation.updates[2]], aggregation=spec(strategy))
    overwrite(federation, SITES[1], change)
    result = federation.aggregate(aggregation=spec(strategy))
    assert [(one.site, one.reason) for one in result.exclusions] == [(SITES[1], reason)]
    assert result.model_digest == without.model_digest


def test_updates_that_are_not_finite_are_left_out_one_after_another(federation: Federation) -> None:
    federation.start(values(0))
    for number, site in enumerate(SITES, start=1):
        bad = {"scalar": torch.tensor(float("nan"))} if number > 1 else {}
        federation.commit(site, {**values(number), **bad})
    result = federation.aggregate()
    assert [(one.site, one.reason) for one in result.exclusions] == [(SITES[1], "NotFinite"), (SITES[2], "NotFinite")]
    assert result.exclusions[0].message == "tensor scalar holds values that are not finite"
    torch.testing.assert_close(federation.merged()["large"], values(1)["large"])


def test_without_a_good_update_there_is_no_model(federation: Federation) -> None:
    fill(federation)
    for site in SITES:
        overwrite(federation, site, lambda data: data[:-9])
    result = federation.aggregate()
    assert [one.site for one in result.exclusions] == list(SITES)
    assert (result.model_digest, result.message) == (None, "0 of 3 updates are valid, quorum is 1")


def test_the_strategy_may_need_more_updates_than_are_left(federation: Federation) -> None:
    fill(federation)
    overwrite(federation, SITES[0], lambda data: data[:-9])
    result = federation.aggregate(aggregation=spec("krum"))
    assert result.model_digest is None
    assert result.message == "2 of 3 updates are valid, quorum is 1, and krum with byzantine 0 needs 3"


class Turning(MemoryStore):
    """A store in which an update changes after it has been read once."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._turning = key

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        found = super().read_range(key, offset, length)
        if key == self._turning and offset + length >= len(self.get(key)):
            self.put(key, bytes(len(self.get(key))))
        return found


def test_an_update_that_turns_bad_between_two_passes_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LARGEST_RANGE", 1 << 16)  # of 600 kB: a second pass reads anew
    federation = Federation(Turning(contract.update_key(UID, SITES[1], 1)), tmp_path)
    fill(federation)
    result = federation.aggregate(aggregation=spec("geometric-median"))
    assert [(one.site, one.reason) for one in result.exclusions] == [(SITES[1], "DigestMismatch")]
    good = Federation(MemoryStore(), tmp_path / "good")
    good.start(values(0))
    for number in (1, 3):
        good.commit(SITES[number - 1], values(number), samples=number)
    assert result.model_digest == good.aggregate(aggregation=spec("geometric-median")).model_digest


class Down(MemoryStore):
    """A store that does not answer when updates are read."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        if key.endswith(".safetensors"):
            raise StoreError(f"{length} bytes at {offset} of {key} cannot be read: the store does not answer")
        return super().read_range(key, offset, length)


def test_a_store_that_does_not_answer_is_no_reason_to_leave_a_hospital_out(tmp_path: Path) -> None:
    federation = Federation(Down(), tmp_path)
    fill(federation)
    with pytest.raises(StoreError, match="does not answer"):
        federation.aggregate()


def test_a_merge_outside_the_range_of_its_type_is_named(federation: Federation) -> None:
    half = {"w": torch.tensor([60000.0], dtype=torch.float16)}
    federation.start({"w": torch.zeros(1, dtype=torch.float16)})
    for site in SITES:
        federation.commit(site, half)
    with pytest.raises(ArtifactError, match="merged tensor w is not finite in F16"):
        federation.aggregate(aggregation=spec("task-arithmetic"))


@pytest.mark.parametrize("strategy", ["krum", "geometric-median", "trimmed-mean", "ties", "fedyogi"])
def test_no_strategy_looks_at_the_order_of_arrival(federation: Federation, strategy: str, threads: None) -> None:
    fill(federation)
    digests = set()
    for number, order in enumerate(itertools.permutations(federation.updates)):
        torch.set_num_threads((1, 2, 8)[number % 3])
        settings = spec(strategy, clip_norm=400.0)
        result = federation.aggregate(updates=list(order), aggregation=settings)
        digests.add((result.model_digest, result.parts_digest, str(result.outliers)))
    assert len(digests) == 1


def test_the_others_of_a_report_count_as_they_do_in_the_merge(federation: Federation) -> None:
    def moved(*places: float) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor(places)}

    federation.start(moved(0.0, 0.0))
    for site, change, samples in zip(SITES, ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0)), (1, 1, 8), strict=True):
        federation.commit(site, moved(*change), samples=samples)
    # Beside the second and the third site: by images the third is nearly all, otherwise both count alike.
    by_images = federation.aggregate(aggregation=spec("fedavg", clip_norm=10.0)).outliers[0].cosine
    alike = federation.aggregate(aggregation=spec("fedavg", clip_norm=10.0, weighting="equal")).outliers[0].cosine
    assert by_images == pytest.approx(8 / 65**0.5)
    assert alike == pytest.approx(0.5**0.5)
