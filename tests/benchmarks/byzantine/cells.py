"""Questions to the cells of the report: one cell for each alpha, number of liars, attack and rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.byzantine.attacks import ATTACKS

Cells = Sequence[Mapping[str, Any]]


def select(cells: Cells, field: str, **where: Any) -> list[float]:
    """Return a field of the cells that match, without those that have no value."""
    found = [cell[field] for cell in cells if all(cell[name] == value for name, value in where.items())]
    return [value for value in found if value is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return round(math.fsum(values) / len(values), 4)


def worst(cells: Cells, rule: str, liars: int) -> float:
    """Return the least accuracy of a model of a rule over the attacks and alphas."""
    attacked = [cell for cell in cells if cell["attack"] in ATTACKS]
    return min(select(attacked, "accuracy", rule=rule, liars=liars))


def without_model(cells: Cells, liars: int) -> list[str]:
    """Return the rules that have no model at all under some attack."""
    return sorted({cell["rule"] for cell in cells if cell["liars"] == liars and cell["accuracy"] is None})


def reporting(cells: Cells) -> Cells:
    """Return the cells of the rules that know how the changes lie to each other, and that no attack breaks at once."""
    return [cell for cell in cells if not cell["rule"].startswith("fedavg")]
