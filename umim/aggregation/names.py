"""Which strategies there are and which options they take. Needs no torch: the operator checks rounds with it."""

from __future__ import annotations

from collections.abc import Mapping

from umim.api.options import Options, check_options
from umim.api.round import AggregationSpec

STRATEGIES: Mapping[str, Options] = {"fedavg": {}, "ties": {"density": (0.001, 1.0)}}
"""Every strategy by name, with its options. ``umim.aggregation.strategy`` holds the code under the same names."""


def check_aggregation(spec: AggregationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the round can be aggregated so."""
    check_options("spec.aggregation", spec.strategy, spec.options, STRATEGIES)
