"""Which strategies there are and which options they take. Needs no torch: the operator checks rounds with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from umim.api.options import Options, check_options
from umim.api.round import AggregationSpec
from umim.errors import ConfigError

_RATE = (1e-6, 100.0)
_BETA = (0.0, 0.999)
_TAU = (1e-12, 1.0)
_NO_OPTIONS: Options = {}
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

GROUP = "umim.strategies"
"""Entry points by which an installed package brings strategies: the name, and what makes it, called without options."""

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
    """Return how many valid updates the strategy needs, at least 1. Mixing needs no more than a robust strategy."""
    return NEEDS[spec.strategy](spec.byzantine) if spec.strategy in NEEDS else 1


def registered() -> Mapping[str, EntryPoint]:
    """Return the strategies of other packages that are installed here, by name. Loads none: the operator lacks numpy.

    A name of ``STRATEGIES`` stays UMIM's, whatever is here. Raises ConfigError when two packages register one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        before = found.setdefault(point.name, point)
        if before.value != point.value:
            raise ConfigError(
                f"spec.aggregation.strategy: {point.name!r} is registered twice, as {before.value} and {point.value}: "
                "uninstall one of the packages"
            )
    return found


def packages(strategy: str) -> tuple[str, ...]:
    """Return the name of the package that brings the strategy, or nothing where it is UMIM's own."""
    point = None if strategy in STRATEGIES else registered().get(strategy)
    return () if point is None or point.dist is None else (point.dist.name,)


def check_strategy(spec: AggregationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the strategy takes these settings."""
    others = {} if spec.strategy in STRATEGIES else dict.fromkeys(registered(), _NO_OPTIONS)
    check_options("spec.aggregation", spec.strategy, spec.options, {**STRATEGIES, **others})
    for name in sorted(WHOLE & set(spec.options)):
        if not spec.options[name].is_integer():
            raise ConfigError(f"spec.aggregation.options.{name}: {spec.options[name]} is not a whole number")
    if spec.strategy not in NEEDS:
        robust = ", ".join(sorted(NEEDS))
        if spec.byzantine > 0:
            raise ConfigError(
                f"spec.aggregation.byzantine: {spec.byzantine} is not allowed: {spec.strategy} is not robust; robust "
                f"strategies: {robust}"
            )
        if spec.mixing != "none":
            raise ConfigError(
                f"spec.aggregation.mixing: {spec.mixing} is not allowed with strategy {spec.strategy}: it helps robust "
                f"strategies alone: {robust}"
            )


def check_quorum(spec: AggregationSpec, quorum: int) -> None:
    """Raise ConfigError unless a round's quorum, spec.participants.quorum, suffices for the strategy."""
    fewest = fewest_sites(spec)
    if quorum < fewest:
        raise ConfigError(
            f"spec.participants.quorum: {quorum} is too small: strategy {spec.strategy} with "
            f"spec.aggregation.byzantine {spec.byzantine} needs at least {fewest} valid updates"
        )


def check_aggregation(spec: AggregationSpec, quorum: int) -> None:
    """Raise ConfigError unless a round can be aggregated so: ``check_strategy`` and ``check_quorum``."""
    check_strategy(spec)
    check_quorum(spec, quorum)
