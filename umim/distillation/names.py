"""Which distillation strategies there are and which options they take. Needs no torch: the operator checks rounds."""

from __future__ import annotations

from collections.abc import Mapping

from umim.api.round import DistillationSpec
from umim.errors import ConfigError

DISTILLERS: Mapping[str, frozenset[str]] = {"features": frozenset({"novelty", "projectors", "teachers", "tint"})}
"""Names of the options of every strategy, see its module for what they do."""


def check_distillation(spec: DistillationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the round can be distilled so."""
    options = DISTILLERS.get(spec.strategy)
    if options is None:
        allowed = ", ".join(sorted(DISTILLERS))
        raise ConfigError(f"spec.distillation.strategy: {spec.strategy!r} is unknown; allowed: {allowed}")
    for option in sorted(spec.options):
        if option not in options:
            raise ConfigError(
                f"spec.distillation.options.{option}: {spec.strategy} takes no such option; allowed: "
                f"{', '.join(sorted(options))}"
            )
