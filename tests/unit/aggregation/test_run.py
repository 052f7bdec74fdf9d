"""One aggregation from committed updates to a published model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from tests.unit.aggregation.conftest import CREATED, Federation
from umim import contract
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.models import fetch_model
from umim.errors import ArtifactError, ConfigError

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
