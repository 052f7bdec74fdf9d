"""What a hospital's privacy floor does to an update before it leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from umim.api.base import Metrics
from umim.api.hospital import PrivacySpec
from umim.api.round import HeadSharing, Progress, TrainingSpec
from umim.rounds.privacy import private_terms
from umim.training.secret import Entropy, gaussian


def protect(
    trained: Mapping[str, Tensor],
    parent: Mapping[str, Tensor],
    privacy: PrivacySpec,
    entropy: Entropy = os.urandom,
) -> dict[str, Tensor]:
    """Return the encoder that may leave: the parent plus the clipped and noised update, in the parent's types.

    The update's L2 norm over all floating-point tensors is cut to clipNorm, then each value gets Gaussian noise
    of standard deviation noiseMultiplier * clipNorm. Tensors of whole numbers are the parent's. ``entropy`` is
    for tests: by default the noise comes from the operating system, value by value. Noise from the round's seed, which
    everyone can read, could be subtracted again.
    """
    names = sorted(name for name, value in parent.items() if value.is_floating_point())
    result = {name: value.detach().cpu().clone() for name, value in parent.items()}
    update = {name: trained[name].detach().cpu().double() - result[name].double() for name in names}
    scale = clip_scale(update, privacy.clip_norm)
    for name in names:
        if scale == 1.0 and not privacy.noise_multiplier:
            result[name] = trained[name].detach().cpu().clone().to(result[name].dtype)
            continue
        value = update[name] * scale
        if privacy.noise_multiplier and privacy.clip_norm is not None:
            value += gaussian(value.shape, privacy.noise_multiplier * privacy.clip_norm, entropy, value.device)
        result[name] = (result[name].double() + value).to(result[name].dtype)
    return result


def clip_scale(update: Mapping[str, Tensor], clip_norm: float | None) -> float:
    """Return the factor <= 1 that brings the update's global L2 norm to at most ``clip_norm``."""
    if clip_norm is None:
        return 1.0
    norm = sum(float(value.double().square().sum()) for value in update.values()) ** 0.5
    return min(1.0, clip_norm / norm) if norm > 0 else 1.0


def head_may_leave(sharing: HeadSharing, task_name: str | None, privacy: PrivacySpec) -> bool:
    """Say whether a site's task head may leave with its update.

    The round must share heads, the hospital must name its task and allow heads, and it must set no clipNorm: clipping
    and noise cover the encoder's update only, so that a head would go around them.
    """
    asked = sharing == "shared" and task_name is not None
    return asked and "head" in privacy.allowed_artifacts and privacy.clip_norm is None


def allowed_metrics(metrics: Metrics, training: TrainingSpec, privacy: PrivacySpec) -> Metrics:
    """Return the figures that may leave: all or none. None of a private training: no noise covers them."""
    return dict(metrics) if _figures_may_leave(training, privacy) else {}


def allowed_progress(progress: Progress, training: TrainingSpec, privacy: PrivacySpec) -> Progress:
    """Return the live report as it may leave: without the loss where no figures may."""
    return progress if _figures_may_leave(training, privacy) else progress.model_copy(update={"loss": None})


def _figures_may_leave(training: TrainingSpec, privacy: PrivacySpec) -> bool:
    return "metrics" in privacy.allowed_artifacts and private_terms(training, privacy) is None
