"""Which distillation strategies there are and which options they take. Needs no torch: the operator checks rounds."""

from __future__ import annotations

from collections.abc import Mapping

from umim.api.options import Options, check_options
from umim.api.round import DistillationSpec

DISTILLERS: Mapping[str, Options] = {
    "features": {
        "anchor": (0.0, 100.0),
        "novelty": (0.0, 10.0),
        "projectors": (0.0, 1.0),
        "teachers": (1.0, 1000.0),
        "tint": (0.0, 1.0),
    }
}
"""Every strategy by name, with its options; see its module for what they do."""


def check_distillation(spec: DistillationSpec) -> None:
    """Raise ConfigError naming the field, its value and what is allowed, unless the round can be distilled so."""
    check_options("spec.distillation", spec.strategy, spec.options, DISTILLERS)
