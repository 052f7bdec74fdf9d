"""The engine: the same bytes with any number of threads, in any order of arrival, cut anyhow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from tests.unit.aggregation.files import merge, merged, mixed_model, random_model, source, spec, update
from umim.aggregation import engine as engine_module
from umim.aggregation import passes
from umim.aggregation.engine import Engine, weight
from umim.aggregation.gram import block_gram
from umim.aggregation.interface import Array, Matrix
from umim.aggregation.merge import merge_files
from umim.aggregation.names import NEEDS
from umim.aggregation.strategy import FACTORIES, make_strategy
from umim.aggregation.updates import BadUpdateError, Update
from umim.api.round import AggregationSpec
from umim.artifacts.sources import MemorySource
from umim.artifacts.tensors import read_safetensors

SITES = 6
OPTIMISERS = ("fedavgm", "fedadam", "fedyogi", "fedadagrad")
ELEMENTWISE = ("fedavg", "uniform", "median", "trimmed-mean", "ties", "task-arithmetic", *OPTIMISERS)
OPTIONS: Mapping[str, Mapping[str, float]] = {"ties": {"density": 0.3}}
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "clipped": {"clip_norm": 50.0},
    "mixed": {"mixing": "nearest-neighbors", "byzantine": 1},
    "clipped and mixed": {"clip_norm": 50.0, "mixing": "nearest-neighbors", "byzantine": 1},
}


def settings_of(strategy: str, filters: str) -> AggregationSpec:
    changes = dict(FILTERS[filters])
    if strategy in NEEDS:
        changes["byzantine"] = 1
    return spec(strategy, OPTIONS.get(strategy), **changes)


def federation(strategy: str) -> tuple[dict[str, torch.Tensor], list[Update]]:
    """A parent and updates sorted by site; one lies far from the others."""
    model = random_model if strategy in OPTIMISERS else mixed_model
    parent = model(0)
    updates = [
        update(f"site-{number}", model(number, scale=5.0 if number == 2 else 1.0), 10 + 7 * number)
        for number in range(1, SITES + 1)
    ]
    return parent, updates


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLICE_BYTES", "LARGE_SLICE_BYTES"):
        monkeypatch.setattr(engine_module, name, 1 << 10)
    monkeypatch.setattr(passes, "FEWEST_ELEMENTS", 1501)
    monkeypatch.setattr(engine_module, "CHUNK", 400)


CASES = [
    (strategy, filters)
    for strategy in sorted(FACTORIES)
    for filters in FILTERS
    if strategy in NEEDS or "mixed" not in filters
]


@pytest.mark.parametrize(("strategy", "filters"), CASES)
def test_the_number_of_threads_changes_no_bit(
    strategy: str, filters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch)
    settings = settings_of(strategy, filters)
    parent, updates = federation(strategy)
    found = set()
    for threads in (1, 2, 8, 8):
        result = merge(parent, updates, tmp_path, settings, threads)
        found.add((result.model.digest, tuple(file.digest for file in result.slots.values())))
    assert len(found) == 1


@pytest.mark.parametrize("strategy", ELEMENTWISE)
def test_where_tensors_are_cut_changes_no_bit(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(strategy, "plain")
    parent, updates = federation(strategy)
    whole = merge(parent, updates, tmp_path, settings).model.digest
    cut_small(monkeypatch)
    assert merge(parent, updates, tmp_path, settings).model.digest == whole


@pytest.mark.parametrize(("strategy", "passes_"), [("fedavg", 1), ("krum", 2), ("ties", 2)])
def test_every_pass_tells_how_many_of_its_slices_are_done(
    strategy: str, passes_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch)
    told: list[tuple[int, int]] = []
    parent, updates = federation(strategy)
    settings = settings_of(strategy, "plain")
    engine = Engine(source(parent), updates, settings, 2, lambda done, total: told.append((done, total)))
    merge_files(make_strategy(settings), engine, tmp_path)
    starts = [at for at, (done, _) in enumerate(told) if done == 0]
    assert len(starts) == passes_
    for start, stop in zip(starts, [*starts[1:], len(told)], strict=True):
        total = told[start][1]
        assert told[start:stop] == [(done, total) for done in range(total + 1)]
        assert total > 1


def test_merged_values_go_where_they_are_asked_to_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    parent, updates = federation("fedavg")
    engine = Engine(source(parent), updates, spec(), 2)
    plan = make_strategy(spec()).plan(engine)
    found: dict[str, list[Array]] = {}
    for piece, _, values in engine.merged(plan):
        found.setdefault(piece.slot.name, []).append(values.copy())
    expected = {name: np.concatenate(pieces) for name, pieces in found.items()}
    into = {name: np.full_like(values, np.nan) for name, values in expected.items()}
    for piece, _, values in engine.merged(plan, into):
        assert np.shares_memory(values, into[piece.slot.name])
    for name, values in into.items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_gram_matrix_is_the_inner_products_of_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)
    parent, updates = federation("fedavg")
    values = {name: value for name, value in parent.items() if value.is_floating_point()}
    models = [mixed_model(number, scale=5.0 if number == 2 else 1.0) for number in range(1, SITES + 1)]
    flat = torch.stack(
        [
            torch.cat([(model[name].double() - value.double()).flatten() for name, value in values.items()])
            for model in models
        ]
    )
    expected = (flat @ flat.T).numpy()
    found = Engine(source(parent), updates, spec(), 2).gram()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * float(expected.max()))
    assert (found == found.T).all()


def test_blas_starts_no_threads_inside_those_of_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def spying(changes: Matrix) -> Matrix:
        seen.update(_blas_threads())
        return block_gram(changes)

    monkeypatch.setattr(engine_module, "block_gram", spying)
    parent, updates = federation("krum")
    with threadpool_limits(2, user_api="blas"):
        Engine(source(parent), updates, settings_of("krum", "plain"), 2).gram()
        assert seen == {1}
        assert _blas_threads() == {2}


def _blas_threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_integers_and_booleans_keep_the_parents_value(tmp_path: Path) -> None:
    parent, updates = federation("fedavg")
    found = merged(parent, updates, tmp_path)
    assert found["steps"].item() == 0
    assert found["mask"].tolist() == [True, True]


def test_every_type_of_values_is_merged_in_its_own_type(tmp_path: Path) -> None:
    parent = mixed_model(0)
    models = [mixed_model(number) for number in (1, 2, 3)]
    found = merged(parent, [update(f"site-{n}", model) for n, model in enumerate(models)], tmp_path, spec("uniform"))
    for name, before in parent.items():
        assert (found[name].dtype, found[name].shape) == (before.dtype, before.shape)
        if before.is_floating_point():
            expected = torch.stack([model[name].double() for model in models]).mean(0)
            torch.testing.assert_close(found[name], expected.to(before.dtype))


@pytest.mark.parametrize("strategy", sorted(set(FACTORIES) - set(OPTIMISERS)))
def test_scalars_and_empty_tensors_are_merged_like_others(strategy: str, tmp_path: Path) -> None:
    settings = settings_of(strategy, "plain")
    parent = {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3)}
    updates = [update(f"site-{n}", {**parent, "scalar": torch.tensor(1.0 + 2.0**-n)}) for n in range(SITES)]
    found = merged(parent, updates, tmp_path, settings)
    assert found["empty"].shape == (0, 3)
    assert found["scalar"].shape == ()
    assert 1.0 < found["scalar"].item() < 4.0


def test_a_model_without_values_is_its_parent(tmp_path: Path) -> None:
    parent = {"steps": torch.tensor([3]), "empty": torch.zeros(0)}
    updates = [update(f"site-{n}", {**parent, "steps": torch.tensor([n])}) for n in range(SITES)]
    assert merged(parent, updates, tmp_path, spec("krum"))["steps"].tolist() == [3]


def test_a_long_change_is_scaled_down_to_the_allowed_norm(tmp_path: Path) -> None:
    parent = {"w": torch.zeros(2)}
    updates = [update("a", {"w": torch.tensor([3.0, 4.0])}), update("b", {"w": torch.tensor([0.1, 0.0])})]
    found = merged(parent, updates, tmp_path, spec(clip_norm=1.0))["w"]
    torch.testing.assert_close(found, torch.tensor([(0.6 + 0.1) / 2, 0.4]))


def test_elementwise_rules_see_the_clipped_changes(tmp_path: Path) -> None:
    parent = {"w": torch.zeros(2)}
    updates = [update(f"site-{n}", {"w": torch.tensor([30.0, 40.0]) * (n + 1)}) for n in range(3)]
    for strategy in ("median", "ties"):
        found = merged(parent, updates, tmp_path, spec(strategy, clip_norm=1.0))["w"]
        torch.testing.assert_close(found, torch.tensor([0.6, 0.8]))


def test_ties_trims_clipped_changes_at_their_own_thresholds(tmp_path: Path) -> None:
    parent = {"w": torch.zeros(2)}
    updates = [update("a", {"w": torch.tensor([30.0, 40.0])}), update("b", {"w": torch.tensor([0.0, 0.5])})]
    found = merged(parent, updates, tmp_path, spec("ties", {"density": 0.5}, clip_norm=1.0))["w"]
    torch.testing.assert_close(found, torch.tensor([0.0, (0.8 + 0.5) / 2]))


def test_with_mixing_a_site_far_away_is_not_among_the_neighbours(tmp_path: Path) -> None:
    parent = {"w": torch.zeros(1)}
    updates = [update(f"site-{n}", {"w": torch.tensor([value])}) for n, value in enumerate([1.0, 2.0, 3.0, 1000.0])]
    settings = spec("median", mixing="nearest-neighbors", byzantine=1)
    # Neighbours: (1, 2, 3) for the first three, (2, 3, 1000) for the last.
    torch.testing.assert_close(merged(parent, updates, tmp_path, settings)["w"], torch.tensor([2.0]))


def test_the_parent_may_lie_in_another_order_than_a_model_is_written(tmp_path: Path) -> None:
    raw = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3.0, 4.0])}
    header = (
        b'{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
    )
    data = len(header).to_bytes(8, "little") + header + b"".join(one.numpy().tobytes() for one in raw.values())
    one = update("site", {"a": torch.tensor([5.0, 6.0]), "b": torch.tensor([7.0, 8.0])})
    engine = Engine(MemorySource(data), [one, one], spec("uniform"), 2)
    model = read_safetensors(merge_files(make_strategy(spec("uniform")), engine, tmp_path).model.path)
    assert {name: value.tolist() for name, value in model.items()} == {"a": [5.0, 6.0], "b": [7.0, 8.0]}


def test_a_change_too_large_for_its_square_is_the_fault_of_its_site(tmp_path: Path) -> None:
    parent = {"w": torch.zeros(1, dtype=torch.float64)}
    updates = [update(f"site-{n}", {"w": torch.tensor([10.0 ** (n * 100)], dtype=torch.float64)}) for n in range(3)]
    with pytest.raises(BadUpdateError, match=r"tensor w changes by 1e\+200, allowed is less than 2\^480") as found:
        merge(parent, updates, tmp_path, spec("krum"))
    assert (found.value.site, found.value.reason) == ("site-2", "NotFinite")


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, 7), ({"weighting": "equal"}, 1), ({"byzantine": 1, "strategy": "median"}, 1)]
)
def test_a_site_counts_by_its_samples_unless_all_count_the_same(changes: dict[str, Any], expected: int) -> None:
    assert weight(AggregationSpec(**changes), 7) == expected
