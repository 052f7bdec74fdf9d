"""docs/concepts/learning.md: its fields and options exist, its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch.nn import functional

from umim.aggregation.interface import Part
from umim.aggregation.names import STRATEGIES
from umim.api.federation import FederationSpec
from umim.api.round import AggregationSpec, DistillationSpec, ModelSpec, TrainingSpec
from umim.data.transforms import normalise
from umim.distillation.features import FeatureDistiller, FeatureOptions
from umim.distillation.names import DISTILLERS
from umim.models.encoder import create_encoder, pooled

CONCEPTS = Path(__file__).parents[2] / "docs/concepts"
PAGE = (CONCEPTS / "learning.md").read_text()
AGGREGATION = (CONCEPTS / "aggregation.md").read_text()
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
        "np": np,
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


@pytest.mark.parametrize(
    ("known", "page"), [(STRATEGIES, AGGREGATION), (DISTILLERS, PAGE)], ids=["aggregation", "distillation"]
)
def test_every_strategy_and_option_is_explained(known: dict[str, dict[str, Any]], page: str) -> None:
    for strategy, options in known.items():
        assert f"`{strategy}`" in page
        for option in options:
            assert f"options.{option}`" in page


def test_the_example_of_a_merge_is_what_it_says() -> None:
    values = [np.array(one, np.float32) for one in ([1.0, 5.0], [2.0, 6.0], [3.0, -100.0], [1000.0, 7.0])]
    merged = example("MidRange")().reduce(Part("w", values, np.zeros(2, np.float32)))
    assert merged.tolist() == [500.5, -46.5]


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
