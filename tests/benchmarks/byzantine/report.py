"""From the records of all federations to one JSON file, a page and its picture. Numbers only; nothing is run here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.byzantine import plots
from tests.benchmarks.byzantine.cells import Cells, mean, reporting, select, without_model, worst
from tests.benchmarks.byzantine.experiment import ABSENT, NOBODY, RULES, SELECTING, TRIMMING
from tests.benchmarks.byzantine.page import page

SHARES = ("honest_lost", "liars_kept", "honest_flagged", "liars_flagged")
COUNTS = ("excluded", "honest_excluded", "failed")

T = TypeVar("T")
Records = Sequence[Mapping[str, Any]]
Key = tuple[float, int, str, str]


def result(records: Records, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole content of byzantine.json: a cell for each alpha, number of liars, attack and rule."""
    keys = dict.fromkeys((one["alpha"], one["liars"], one["attack"], one["rule"]) for one in records)
    cells = [_cell(records, key, surroundings["federation"]["rounds"]) for key in keys]
    return {"summary": _summary(cells, surroundings), **surroundings, "cells": cells}


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write byzantine.json, byzantine.md and byzantine.png."""
    rest = json.dumps({key: value for key, value in found.items() if key != "cells"}, indent=1)
    cells = ",\n  ".join(json.dumps(cell) for cell in found["cells"])
    (folder / "byzantine.json").write_text(f'{rest[:-2]},\n "cells": [\n  {cells}\n ]\n}}\n')
    (folder / "byzantine.md").write_text(page(found))
    plots.draw(found, folder / "byzantine.png")


def _cell(records: Records, key: Key, rounds: int) -> dict[str, Any]:
    """Return mean accuracy over the seeds, None where no round had a model, and the tallies of all seeds."""
    alpha, liars, attack, rule = key
    found = [one for one in records if (one["alpha"], one["liars"], one["attack"], one["rule"]) == key]
    scores = [one["accuracy"] for one in found]
    nothing = all(one["failed"] == rounds for one in found)
    return {
        "alpha": alpha,
        "liars": liars,
        "attack": attack,
        "rule": rule,
        "accuracy": None if nothing else round(math.fsum(scores) / len(scores), 4),
        "by_seed": [round(score, 4) for score in scores],
        **{name: _rate([one[name] for one in found]) for name in SHARES},
        **{name: sum(one[name] for one in found) for name in COUNTS},
    }


def _rate(shares: Sequence[Mapping[str, float]]) -> float | None:
    all_ = math.fsum(one["all"] for one in shares)
    return round(math.fsum(one["of"] for one in shares) / all_, 4) if all_ else None


def _summary(cells: Cells, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures by rule. Means are over the alphas and seeds, the worst over alphas and attacks."""
    liars = surroundings["liars"]
    fedavg = mean(select(cells, "accuracy", rule="fedavg", attack=NOBODY))

    def by_liars(of: Callable[[int], T]) -> dict[str, T]:
        return {f"f={number}": of(number) for number in liars}

    def absent(number: int) -> float:
        return mean(select(cells, "accuracy", attack=ABSENT, liars=number))

    def cost(rule: str, number: int) -> float:
        return round(fedavg - mean(select(cells, "accuracy", rule=rule, attack=NOBODY, liars=number)), 4)

    def lost(rule: str, number: int) -> float:
        return mean(select(cells, "honest_lost", rule=rule, attack=NOBODY, liars=number))

    return {
        "fedavg_without_attack": fedavg,
        "fedavg_without_the_liars": by_liars(
            lambda number: mean(select(cells, "accuracy", attack=ABSENT, liars=number))
        ),
        "cost_without_attack": {rule: by_liars(partial(cost, rule)) for rule in RULES},
        "worst_accuracy": {rule: by_liars(partial(worst, cells, rule)) for rule in RULES},
        "no_model": by_liars(partial(without_model, cells)),
        "honest_lost_without_attack": {rule: by_liars(partial(lost, rule)) for rule in (*SELECTING, TRIMMING)},
        "honest_flagged_without_attack": mean(select(reporting(cells), "honest_flagged", attack=NOBODY)),
    }
