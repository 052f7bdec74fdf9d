"""Strategies that a resource names, and their numeric options. Needs no torch: the operator checks them."""

from __future__ import annotations

from collections.abc import Mapping

from umim.errors import ConfigError

Options = Mapping[str, tuple[float, float]]
"""Smallest and largest allowed value of every option by name."""


def check_options(field: str, strategy: str, given: Mapping[str, float], known: Mapping[str, Options]) -> None:
    """Raise ConfigError naming the field, its value and what is allowed.

    ``field`` is the part of the resource, such as spec.aggregation; ``known`` are the strategies that there are.
    """
    options = known.get(strategy)
    if options is None:
        raise ConfigError(f"{field}.strategy: {strategy!r} is unknown; allowed: {', '.join(sorted(known))}")
    for name, value in sorted(given.items()):
        if name not in options:
            allowed = ", ".join(sorted(options)) or "none"
            raise ConfigError(f"{field}.options.{name}: {strategy} takes no such option; allowed: {allowed}")
        low, high = options[name]
        if not low <= value <= high:
            raise ConfigError(f"{field}.options.{name}: {value} is not allowed; allowed: {low:g} to {high:g}")
