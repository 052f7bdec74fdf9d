"""How much epsilon trainings spend, by opacus' accountant of Rényi differential privacy.

Rényi differential privacy of the Poisson-sampled Gaussian mechanism (Mironov, Talwar, Zhang 2019, arXiv 1908.10530) is
an upper bound at any number of steps. opacus' PRV accountant is tighter, but its bound is numerical, and a budget
needs one that always holds. opacus is imported when it is needed: it takes seconds, and most trainings are not private.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from umim.errors import ConfigError

EPSILON_TOLERANCE = 0.01
"""The least noise keeps a target epsilon to within this, from below."""
ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(12, 64), 80, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Rényi orders: opacus' own and larger ones, without which a small epsilon looks larger than it is."""


@dataclass(frozen=True)
class Mechanism:
    """One training: steps of the sampled Gaussian mechanism."""

    noise_multiplier: float
    """Standard deviation of the noise over the largest norm of one image's part."""
    sample_rate: float
    """Chance of each image to be in a step, in (0, 1]."""
    steps: int
    """Number of steps."""


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return the epsilon that mechanisms on the same images spend together, at ``delta``. 0 for none."""
    from opacus.accountants import RDPAccountant

    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one.noise_multiplier, one.sample_rate] += one.steps
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, count) for (noise, rate), count in sorted(steps.items())]
    with warnings.catch_warnings():
        # The best order is at an end of the list: the bound holds, only a tighter one may exist.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return max(0.0, float(accountant.get_epsilon(delta, alphas=list(ORDERS))))


@lru_cache(maxsize=64)
def noise_for(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return about the least noise multiplier with which the steps spend at most ``target_epsilon``.

    It is sought in a dozen tries, which take seconds. An audit asks for the same one many times: answers are kept.
    Raises ConfigError when no noise that opacus tries keeps it.
    """
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        try:
            return float(
                get_noise_multiplier(
                    target_epsilon=target_epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                    alphas=list(ORDERS),
                    epsilon_tolerance=min(EPSILON_TOLERANCE, target_epsilon / 10),
                )
            )
        except ValueError as error:
            raise ConfigError(
                f"spec.training.differentialPrivacy.targetEpsilon {target_epsilon:g} at delta {delta:g} cannot be kept "
                f"over {steps} steps at sample rate {sample_rate:.3g} by any noise; allowed are a larger targetEpsilon "
                "or fewer epochs"
            ) from error
