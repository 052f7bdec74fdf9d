"""What the server's optimiser remembers goes with the model from round to round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.aggregation.conftest import Federation
from tests.unit.aggregation.files import spec
from umim import contract
from umim.api.artifacts import JobResult
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import fetch_parts
from umim.artifacts.parts import read_parts
from umim.errors import ArtifactError, NotFoundError
from umim.models.state import ModelState

RATE, BETA1, BETA2, TAU = 0.5, 0.8, 0.9, 0.01
ADAM = spec("fedadam", {"serverLearningRate": RATE, "beta1": BETA1, "beta2": BETA2, "tau": TAU})
SLOTS = ("fedadam.first_moment", "fedadam.second_moment")


def model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "b": torch.randn(5, generator=generator),
        "a": torch.randn(30, 40, generator=generator),
        "steps": torch.tensor(seed),
    }


def flat(tensors: dict[str, torch.Tensor]) -> NDArray[np.float64]:
    return torch.cat([tensors[name].double().flatten() for name in ("a", "b")]).numpy()


def play(federation: Federation, seeds: Sequence[int], strategy: str = "fedadam", scale: float = 1.0) -> JobResult:
    """Merge one round of sites that count 1, 2, ... images."""
    for number, seed in enumerate(seeds, start=1):
        federation.commit(f"site-{number}", model(seed), samples=number)
    settings = ADAM if strategy == "fedadam" else spec(strategy)
    return federation.aggregate(aggregation=settings.model_copy(update={"scales": [scale]}))


def state(federation: Federation) -> ModelState:
    """The other parts of the model that was aggregated last."""
    assert federation.result is not None
    federation.next_round()
    path = federation.folder / "parts"
    return ModelState.from_parts(
        {}, read_parts(path)[0] if fetch_parts(federation.store, federation.parent, path) else {}
    )


def test_two_rounds_of_fedadam_follow_the_papers_formulas(federation: Federation) -> None:
    federation.start(model(0))
    expected = flat(model(0))
    first = second = np.zeros_like(expected)
    for seeds in ((1, 2), (3, 4)):
        change = (flat(model(seeds[0])) + 2 * flat(model(seeds[1]))) / 3 - expected
        first = BETA1 * first + (1 - BETA1) * change
        second = BETA2 * second + (1 - BETA2) * change**2
        expected = expected + RATE * first / (np.sqrt(second) + TAU)
        play(federation, seeds)
        np.testing.assert_allclose(flat(federation.merged()), expected, rtol=1e-5, atol=1e-5)
        federation.next_round()


def test_the_state_lies_beside_the_model_and_the_parts_name_it(federation: Federation) -> None:
    federation.start(model(0))
    result = play(federation, (1, 2))
    found = state(federation)
    assert tuple(found.optimiser) == SLOTS
    keys = [contract.optimiser_key(str(result.model_digest), digest) for digest in found.optimiser.values()]
    assert sorted(keys) == [
        one.key for one in federation.store.list(f"{contract.model_prefix(str(result.model_digest))}optimiser/")
    ]


def test_a_site_sees_no_more_parts_than_before(federation: Federation) -> None:
    federation.start(model(0))
    play(federation, (1, 2))
    found = state(federation)
    assert (found.mim, found.heads) == ({}, {})


def test_another_strategy_starts_anew(tmp_path: Path) -> None:
    def second_round(after: str) -> tuple[str | None, ModelState]:
        federation = Federation(MemoryStore(), tmp_path / after)
        federation.start(model(0))
        play(federation, (1, 2), after)
        parent = federation.merged()
        fresh = Federation(MemoryStore(), tmp_path / f"{after}-fresh")
        fresh.start(parent)
        federation.next_round()
        digest = play(federation, (3, 4), "fedyogi").model_digest
        assert digest == play(fresh, (3, 4), "fedyogi").model_digest
        return digest, state(federation)

    for before in ("fedadam", "fedavg"):
        assert tuple(second_round(before)[1].optimiser) == ("fedyogi.first_moment", "fedyogi.second_moment")


def test_without_an_optimiser_nothing_is_remembered(federation: Federation) -> None:
    federation.start(model(0))
    play(federation, (1, 2))
    federation.next_round()
    assert play(federation, (3, 4), "fedavg").parts_digest is None


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_damaged_or_missing_state_stops_the_aggregation(federation: Federation, damage: bytes | None) -> None:
    federation.start(model(0))
    result = play(federation, (1, 2))
    digest = state(federation).optimiser[SLOTS[1]]
    key = contract.optimiser_key(str(result.model_digest), digest)
    if damage is None:
        federation.store.delete(key)
    else:
        federation.store.put(key, damage)
    with pytest.raises(ArtifactError if damage else NotFoundError, match=key):
        play(federation, (3, 4))


def test_the_scale_multiplies_the_optimisers_step_and_not_its_state(tmp_path: Path) -> None:
    found = []
    for scale in (1.0, 0.5):
        federation = Federation(MemoryStore(), tmp_path / str(scale))
        federation.start(model(0))
        play(federation, (1, 2), scale=scale)
        found.append((flat(federation.merged()) - flat(model(0)), state(federation).optimiser))
    np.testing.assert_allclose(found[1][0], 0.5 * found[0][0], rtol=1e-4, atol=1e-6)
    assert found[0][1] == found[1][1]


def test_a_model_of_several_types_is_refused(federation: Federation) -> None:
    federation.start({"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.float16)})
    federation.commit("site", {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float16)})
    with pytest.raises(ArtifactError, match="values are of types F16, F32: the server's optimisers need one type"):
        federation.aggregate(aggregation=ADAM)
