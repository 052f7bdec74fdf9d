"""Makes the golden values of the aggregation rules with other people's code: Flower and ByzFL.

Neither is a dependency of this project. In a virtual environment of its own with flwr, byzfl and torch:

    python tests/golden/aggregation/make.py

Golden values change only when inputs or cases here do.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

SITES, SIZE, ROUNDS = 9, 12, 4
SAMPLES = [100, 20, 300, 50, 70, 10, 150, 90, 210]
ADAPTIVE = {"eta": 0.1, "tau": 1e-3}
BETAS = {"beta_1": 0.9, "beta_2": 0.99}


def inputs() -> Any:
    """Return the changes of every round and site, as nested lists: two of nine sites are far from the others."""
    random = np.random.default_rng(20261124)
    common = random.normal(size=(ROUNDS, 1, SIZE))
    changes = common + 0.5 * random.normal(size=(ROUNDS, SITES, SIZE))
    changes[:, 3] *= -4
    changes[:, 7] += 10
    return np.round(changes, 6).tolist()


def byzfl(changes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return ByzFL's results for the first round's changes, f = 2."""
    # The package itself asks for the libraries of its benchmarks: only its aggregators are needed.
    folder = next(path for path in importlib.metadata.files("byzfl") or [] if path.name == "__init__.py").locate()
    package = types.ModuleType("byzfl")
    package.__path__ = [str(Path(str(folder)).parent)]
    sys.modules["byzfl"] = package
    rules: Any = importlib.import_module("byzfl.aggregators.aggregators")
    before: Any = importlib.import_module("byzfl.aggregators.preaggregators")
    return {
        "median": rules.Median()(changes).tolist(),
        "trimmed-mean": rules.TrMean(f=2)(changes).tolist(),
        "geometric-median": rules.GeometricMedian(nu=1e-6, T=1000)(changes).tolist(),
        "centered-clipping": rules.CenteredClipping(L=3, tau=2.5)(changes).tolist(),
        "nearest-neighbors": before.NNM(f=2)(changes).tolist(),
        "clipping": before.Clipping(c=3.0)(changes.copy()).tolist(),
    }


def flower_rules(changes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return Flower's results for the first round's changes, f = 2."""
    rules: Any = importlib.import_module("flwr.server.strategy.aggregate")
    weighted = [([change], samples) for change, samples in zip(changes, SAMPLES, strict=True)]
    equal = [([change], 1) for change in changes]
    return {
        "fedavg": rules.aggregate(weighted)[0].tolist(),
        "krum": rules.aggregate_krum(equal, 2, 0)[0].tolist(),
        "multi-krum": rules.aggregate_krum(equal, 2, SITES - 2)[0].tolist(),
    }


def flower_optimisers(changes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the models after every round, from a model of zeros, by Flower's server optimisers."""
    strategies: Any = importlib.import_module("flwr.server.strategy")
    common: Any = importlib.import_module("flwr.common")
    start = common.ndarrays_to_parameters([np.zeros(SIZE)])
    made = {
        "fedavgm": strategies.FedAvgM(initial_parameters=start, server_momentum=0.9, server_learning_rate=0.5),
        "fedadam": strategies.FedAdam(initial_parameters=start, **ADAPTIVE, **BETAS),
        "fedyogi": strategies.FedYogi(initial_parameters=start, **ADAPTIVE, **BETAS),
        "fedadagrad": strategies.FedAdagrad(initial_parameters=start, **ADAPTIVE),
    }
    found: dict[str, Any] = {}
    for name, strategy in made.items():
        model, found[name] = np.zeros(SIZE), []
        for number in range(ROUNDS):
            results = [
                (
                    None,
                    common.FitRes(
                        status=common.Status(code=common.Code.OK, message=""),
                        parameters=common.ndarrays_to_parameters([model + change]),
                        num_examples=samples,
                        metrics={},
                    ),
                )
                for change, samples in zip(changes[number], SAMPLES, strict=True)
            ]
            model = common.parameters_to_ndarrays(strategy.aggregate_fit(number + 1, results, [])[0])[0]
            found[name].append(model.tolist())
    # Flower corrects the bias of Adam by a rate that changes from round to round, the paper does not: the rates are
    # golden, too, so that the rest can be compared.
    found["fedadam-rates"] = [
        ADAPTIVE["eta"] * (1 - BETAS["beta_2"] ** (number + 2)) ** 0.5 / (1 - BETAS["beta_1"] ** (number + 2))
        for number in range(ROUNDS)
    ]
    return found


def main() -> None:
    """Write rules.json beside this file."""
    changes = inputs()
    arrays = np.array(changes)
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in ("byzfl", "flwr", "numpy")},
        "samples": SAMPLES,
        "changes": changes,
        "byzfl": byzfl(arrays[0]),
        "flwr": flower_rules(arrays[0]),
        "optimisers": flower_optimisers(arrays),
    }
    Path(__file__).with_name("rules.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
