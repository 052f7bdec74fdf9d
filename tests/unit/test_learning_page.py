"""docs/concepts/learning.md: its fields and options exist, its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch.nn import functional

from tests.unit.aggregation.test_fedavg import InMemory
from umim.aggregation.names import STRATEGIES
from umim.aggregation.reader import WeightedUpdate
from umim.api.federation import FederationSpec
from umim.api.round import AggregationSpec, DistillationSpec, ModelSpec, TrainingSpec
from umim.data.transforms import normalise
from umim.distillation.features import FeatureDistiller, FeatureOptions
from umim.distillation.names import DISTILLERS
from umim.models.encoder import create_encoder, pooled

PAGE = (Path(__file__).parents[2] / "docs/concepts/learning.md").read_text()
OWNERS: dict[str, type[BaseModel]] = {
    "training": TrainingSpec,
    "aggregation": AggregationSpec,
    "distillation": DistillationSpec,
    "model": ModelSpec,
}


def example(name: str) -> Any:
    """The class of that name in the page's Python examples, made with what its file would import."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f"class {name}" in block]
    known: dict[str, Any] = {
        "torch": torch,
        "functional": functional,
        "normalise": normalise,
        "pooled": pooled,
        "FeatureDistiller": FeatureDistiller,
    }
    exec("from __future__ import annotations\n" + code, known)
    return known[name]


def test_the_fields_of_the_table_exist() -> None:
    table = PAGE.split("## What chooses a part")[1].split("\n## ")[0]
    fields = re.findall(r"^\| [^|]+ \| `([\w.]+)`", table, re.MULTILINE)
    assert len(fields) > 15
    for field in fields:
        owner, _, rest = field.partition(".")
        name = rest.partition(".")[0] or owner
        assert name in {one.alias for one in OWNERS.get(owner, FederationSpec).model_fields.values()}, field


@pytest.mark.parametrize("known", [STRATEGIES, DISTILLERS], ids=["aggregation", "distillation"])
def test_every_strategy_and_option_is_explained(known: dict[str, dict[str, Any]]) -> None:
    for strategy, options in known.items():
        assert f"`{strategy}`" in PAGE
        for option in options:
            assert f"options.{option}`" in PAGE


def test_the_example_of_a_merge_is_what_it_says() -> None:
    values = [[1.0, 5.0], [2.0, 6.0], [3.0, -100.0], [1000.0, 7.0]]
    updates = [WeightedUpdate(f"s{number}", 1, InMemory(one)) for number, one in enumerate(values)]
    merged = dict(example("TrimmedMean")(trim=0.25).merge(InMemory([0.0, 0.0]), updates, ["w"]))
    assert merged["w"].tolist() == [2.5, 5.5]


def test_the_example_of_a_distillation_is_what_it_says() -> None:
    student, teacher = (create_encoder("vit_pico_patch8_64", 32, seed) for seed in (0, 1))
    images = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    losses = []
    for teachers in ([student], [teacher], [student, teacher]):
        shares = [1 / len(teachers)] * len(teachers)
        made = example("PooledDistiller")(student, None, teachers, None, shares, 0.0, FeatureOptions())
        losses.append(made.loss(images, None, torch.Generator()).item())
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[1] > 0.01
    assert losses[2] == pytest.approx(losses[1] / 2, abs=1e-6)
