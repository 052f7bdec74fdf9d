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


def worst(cells: Cells, rule: str, liars: int) -> float | None:
    """Return a rule's least accuracy over the attacks and alphas. None where an attack leaves no model at all."""
    found = [cell for cell in cells if cell["rule"] == rule and cell["liars"] == liars and cell["attack"] in ATTACKS]
    if any(cell["accuracy"] is None for cell in found):
        return None
    return float(min(cell["accuracy"] for cell in found))


def reporting(cells: Cells) -> Cells:
    """Return the cells of the rules that know how the changes lie to each other, and that no attack breaks at once."""
    return [cell for cell in cells if not cell["rule"].startswith("fedavg")]
