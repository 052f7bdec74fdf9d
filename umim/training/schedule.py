"""The learning rate over the steps."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the rate of a step (from 0): linear warm-up to ``peak``, then a cosine to 0 (arXiv 1608.03983)."""
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
