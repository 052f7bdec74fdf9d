"""Which strategies there are and which options they take. Needs no torch: the operator checks rounds with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umim.api.round import AggregationSpec
from umim.errors import ConfigError


@dataclass(frozen=True)
class StrategyInfo:
    """What a round may ask of a strategy."""

    options: frozenset[str] = frozenset()
    """Names of the options that it takes."""


STRATEGIES: Mapping[str, StrategyInfo] = {"fedavg": StrategyInfo()}
"""Every strategy by name. ``umim.aggregation.strategy`` holds the code under the same names."""


def check_aggregation(spec: AggregationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the round can be aggregated so."""
    info = STRATEGIES.get(spec.strategy)
    if info is None:
        allowed = ", ".join(sorted(STRATEGIES))
        raise ConfigError(f"spec.aggregation.strategy: {spec.strategy!r} is unknown; allowed: {allowed}")
    for option in sorted(spec.options):
        if option not in info.options:
            allowed = ", ".join(sorted(info.options)) or "none"
            raise ConfigError(
                f"spec.aggregation.options.{option}: {spec.strategy} takes no such option; allowed: {allowed}"
            )
