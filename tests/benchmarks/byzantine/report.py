"""From the records of all federations to one JSON file, a page and its picture. Numbers only; nothing is run here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.byzantine.page import page

from tests.benchmarks.byzantine import plots
from tests.benchmarks.byzantine.attacks import ATTACKS
from tests.benchmarks.byzantine.experiment import ABSENT, NOBODY, RULES, SELECTING, TRIMMING

SHARES = ("honest_lost", "liars_kept", "honest_flagged", "liars_flagged")
COUNTS = ("excluded", "honest_excluded", "failed")

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


def _summary(cells: Sequence[Mapping[str, Any]], surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures by rule. Accuracies are means over the seeds, costs over seeds and alphas."""
    fedavg = _mean([one["accuracy"] for one in cells if one["rule"] == "fedavg" and one["attack"] == NOBODY])
    return {
        "honest_accuracy_fedavg": fedavg,
        "accuracy_without_liars": {
            f"f={liars}": _mean([one["accuracy"] for one in cells if _is(one, liars, ABSENT)])
            for liars in surroundings["liars"]
        },
        "cost_without_attack": {
            rule: {
                f"f={liars}": round(
                    fedavg
                    - _mean([one["accuracy"] for one in cells if _is(one, liars, NOBODY) and one["rule"] == rule]),
                    4,
                )
                for liars in surroundings["liars"]
            }
            for rule in RULES
        },
        "worst_accuracy": {
            rule: {f"f={liars}": _worst(cells, liars, rule) for liars in surroundings["liars"]} for rule in RULES
        },
        "honest_lost_without_attack": {
            rule: {
                f"f={liars}": _mean(
                    [one["honest_lost"] for one in cells if _is(one, liars, NOBODY) and one["rule"] == rule]
                )
                for liars in surroundings["liars"]
            }
            for rule in (*SELECTING, TRIMMING)
        },
        "report": {
            "honest_flagged_without_attack": _mean(
                [
                    one["honest_flagged"]
                    for one in cells
                    if one["attack"] == NOBODY and one["honest_flagged"] is not None
                ]
            ),
            "liars_flagged": {attack: _flagged(cells, attack) for attack in ATTACKS},
        },
    }


def _is(cell: Mapping[str, Any], liars: int, attack: str) -> bool:
    return bool(cell["liars"] == liars and cell["attack"] == attack)


def _worst(cells: Sequence[Mapping[str, Any]], liars: int, rule: str) -> float | None:
    """Return the least accuracy over the attacks and alphas that left a model."""
    found = [
        one["accuracy"] for one in cells if one["liars"] == liars and one["rule"] == rule and one["attack"] in ATTACKS
    ]
    return min((score for score in found if score is not None), default=None)


def _flagged(cells: Sequence[Mapping[str, Any]], attack: str) -> float | None:
    found = [one["liars_flagged"] for one in cells if one["attack"] == attack and one["liars_flagged"] is not None]
    return _mean(found) if found else None


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 4)
