"""Which strategies there are and which options they take. Needs no torch: the operator checks rounds with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from umim.api.options import Options, check_options
from umim.api.round import AggregationSpec
from umim.errors import ConfigError

_RATE = (1e-6, 100.0)
_BETA = (0.0, 0.999)
_TAU = (1e-12, 1.0)
_ADAPTIVE: Options = {"serverLearningRate": _RATE, "beta1": _BETA, "beta2": _BETA, "tau": _TAU}

STRATEGIES: Mapping[str, Options] = {
    "fedavg": {},
    "uniform": {},
    "fedavgm": {"momentum": _BETA, "serverLearningRate": _RATE},
    "fedadam": _ADAPTIVE,
    "fedyogi": _ADAPTIVE,
    "fedadagrad": {"serverLearningRate": _RATE, "beta1": _BETA, "tau": _TAU},
    "median": {},
    "trimmed-mean": {},
    "krum": {},
    "multi-krum": {},
    "geometric-median": {"iterations": (1, 1000), "smoothing": (1e-12, 1.0)},
    "centered-clipping": {"iterations": (1, 100), "radius": (1e-12, 1e12)},
    "ties": {"density": (0.001, 1.0)},
    "task-arithmetic": {"scale": (0.001, 10.0)},
}
"""Every strategy by name, with its options. ``umim.aggregation.strategy`` holds the code under the same names."""

WHOLE = frozenset({"iterations"})
"""Options that are whole numbers."""

Need = Callable[[int], int]


def _majority(byzantine: int) -> int:
    return 2 * byzantine + 1


def _krum(byzantine: int) -> int:
    return 2 * byzantine + 3


NEEDS: Mapping[str, Need] = {
    "median": _majority,
    "trimmed-mean": _majority,
    "geometric-median": _majority,
    "centered-clipping": _majority,
    "krum": _krum,
    "multi-krum": _krum,
}
"""Fewest updates of the robust strategies, by the number of those that may be anything."""


def fewest_sites(spec: AggregationSpec) -> int:
    """Return how many valid updates the strategy and the mixing need, at least 1."""
    needs = [NEEDS[spec.strategy]] if spec.strategy in NEEDS else []
    if spec.mixing != "none":
        needs.append(_majority)
    return max((need(spec.byzantine) for need in needs), default=1)


def check_strategy(spec: AggregationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the strategy takes these settings."""
    check_options("spec.aggregation", spec.strategy, spec.options, STRATEGIES)
    for name in sorted(WHOLE & set(spec.options)):
        if not spec.options[name].is_integer():
            raise ConfigError(f"spec.aggregation.options.{name}: {spec.options[name]} is not a whole number")
    if spec.strategy == "ties" and spec.mixing != "none":
        raise ConfigError(
            f"spec.aggregation.mixing: {spec.mixing} is not allowed with strategy ties, which trims each update's own "
            "changes; allowed: none"
        )
    if spec.byzantine > 0 and spec.strategy not in NEEDS and spec.mixing == "none":
        raise ConfigError(
            f"spec.aggregation.byzantine: {spec.byzantine} is not allowed: {spec.strategy} is not robust without "
            f"spec.aggregation.mixing nearest-neighbors; robust strategies: {', '.join(sorted(NEEDS))}"
        )


def check_quorum(spec: AggregationSpec, quorum: int) -> None:
    """Raise ConfigError unless a round's quorum, spec.participants.quorum, suffices for the strategy and the mixing."""
    fewest = fewest_sites(spec)
    if quorum < fewest:
        raise ConfigError(
            f"spec.participants.quorum: {quorum} is too small: {_what(spec)} with spec.aggregation.byzantine "
            f"{spec.byzantine} needs at least {fewest} valid updates"
        )


def check_aggregation(spec: AggregationSpec, quorum: int) -> None:
    """Raise ConfigError unless a round can be aggregated so: ``check_strategy`` and ``check_quorum``."""
    check_strategy(spec)
    check_quorum(spec, quorum)


def _what(spec: AggregationSpec) -> str:
    """Return which part of the spec needs so many updates."""
    own = NEEDS.get(spec.strategy)
    if own is not None and own(spec.byzantine) >= fewest_sites(spec):
        return f"strategy {spec.strategy}"
    return f"mixing {spec.mixing}"
