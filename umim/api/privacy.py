"""Differential privacy of a site's training (DP-SGD, Abadi et al. 2016, arXiv 1607.00133): asked, demanded, recorded.

The terms are opacus'. What is protected is one image (record-level), see docs/concepts/privacy.md.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from umim.api.base import INT64, ApiModel, FiniteFloat, cel_rules

Delta = Annotated[float, Field(gt=0, lt=1)]
NoiseMultiplier = Annotated[float, Field(gt=0, le=100)]
MaxGradNorm = Annotated[float, Field(gt=0, le=1000)]


class DifferentialPrivacySpec(ApiModel):
    """DP-SGD at every site of a round. Exactly one of noiseMultiplier and targetEpsilon is set."""

    noise_multiplier: NoiseMultiplier | None = None
    """Standard deviation of the noise on the sum of the clipped gradients of a step, as a multiple of maxGradNorm."""
    target_epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Epsilon of this round's training alone, at delta. Each site takes the least noise that keeps it, which depends
    on its number of images."""
    max_grad_norm: MaxGradNorm = 1.0
    """Largest L2 norm of the gradient of one image, over all trained values. A larger one is scaled down."""
    delta: Delta = 1e-5
    """Delta of epsilon. Must be below 1 / number of training images of each site."""

    model_config = cel_rules(
        {
            "rule": "has(self.noiseMultiplier) != has(self.targetEpsilon)",
            "message": "differentialPrivacy needs exactly one of noiseMultiplier and targetEpsilon",
            "reason": "FieldValueInvalid",
        }
    )


class DifferentialPrivacyFloor(ApiModel):
    """DP-SGD that the hospital demands of every round. The stricter of round and hospital holds."""

    min_noise_multiplier: NoiseMultiplier
    """Least noiseMultiplier. A round that asks for less, or for no differential privacy, is trained with this one."""
    max_grad_norm: MaxGradNorm = 1.0
    """Largest maxGradNorm. A round that asks for more is trained with this one."""
    epsilon_budget: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Most epsilon that all trainings of this hospital may spend together, at delta. A Job that would exceed it is
    refused before it trains. Default: no limit."""
    delta: Delta = 1e-5
    """Delta of epsilonBudget. Must be below 1 / number of training images."""


class DifferentialPrivacyRecord(ApiModel):
    """With which differential privacy an update was trained. It follows from the round and the number of images."""

    noise_multiplier: FiniteFloat
    """Standard deviation of the noise of a step, as a multiple of maxGradNorm."""
    max_grad_norm: FiniteFloat
    """L2 norm to which the gradient of each image was clipped."""
    sample_rate: FiniteFloat
    """Chance of each image to be in a step (Poisson sampling)."""
    steps: Annotated[int, Field(ge=1), INT64]
    """Steps of the training."""
    epsilon: FiniteFloat
    """Epsilon of this training alone at delta, for one image added or removed (RDP accountant of opacus)."""
    delta: FiniteFloat
    """Delta of epsilon."""
    epsilon_spent: FiniteFloat | None = None
    """Epsilon of all trainings in the hospital's ledger together, this one included, at the delta of its budget.
    Absent where the hospital lets no metrics out."""
