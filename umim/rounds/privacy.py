"""Policy: with which differential privacy a site trains. Pure; the operator, the simulation and the Jobs obey it."""

from __future__ import annotations

from dataclasses import dataclass

from umim.api.hospital import PrivacySpec
from umim.api.round import TrainingSpec


@dataclass(frozen=True)
class Terms:
    """What round and hospital agree on: of each field the stricter one."""

    least_noise: float | None
    """Least noise multiplier. None: the target alone decides."""
    target_epsilon: float | None
    """Epsilon of this training that must be kept. None: the noise alone decides."""
    target_delta: float
    """Delta of the target."""
    max_grad_norm: float
    """L2 norm to which the gradient of each image is clipped."""
    delta: float
    """Delta of the epsilon that is recorded."""
    budget: float | None
    """Most epsilon that the hospital may spend in all. None: no limit."""
    budget_delta: float
    """Delta of the budget."""


def private_terms(training: TrainingSpec, privacy: PrivacySpec) -> Terms | None:
    """Return the terms of a site's DP-SGD, or None where neither the round nor the hospital wants any."""
    asked, floor = training.differential_privacy, privacy.differential_privacy
    if asked is None and floor is None:
        return None
    noises = [asked.noise_multiplier if asked else None, floor.min_noise_multiplier if floor else None]
    deltas = [part.delta for part in (asked, floor) if part is not None]
    return Terms(
        least_noise=max((noise for noise in noises if noise is not None), default=None),
        target_epsilon=asked.target_epsilon if asked else None,
        target_delta=asked.delta if asked else deltas[0],
        max_grad_norm=min(part.max_grad_norm for part in (asked, floor) if part is not None),
        delta=min(deltas),
        budget=floor.epsilon_budget if floor else None,
        budget_delta=floor.delta if floor else deltas[0],
    )


def unsuited(training: TrainingSpec, privacy: PrivacySpec) -> str | None:
    """Return which field of the round cannot be trained with the privacy that round or hospital want, or None."""
    if training.head_warmup_epochs and private_terms(training, privacy) is not None:
        return (
            f"spec.training.headWarmupEpochs is {training.head_warmup_epochs}: with differential privacy "
            "(spec.training.differentialPrivacy, or spec.privacy.differentialPrivacy of the Hospital) it must be 0, "
            "because the warm-up adds no noise"
        )
    return None
