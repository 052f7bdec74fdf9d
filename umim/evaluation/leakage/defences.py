"""The table of defences that are audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umim.api.hospital import PrivacySpec
from umim.api.privacy import DifferentialPrivacySpec
from umim.api.round import TrainingSpec


@dataclass(frozen=True)
class Defence:
    """One way to train and to release. Defences with equal ``training`` share their trainings."""

    name: str
    """In tables and in the JSON."""
    training: TrainingSpec
    """What the site optimises, as in a round."""
    privacy: PrivacySpec
    """What ``umim.training.privacy.protect`` does to the update before it leaves."""


def defences(
    training: TrainingSpec, clip_norm: float, noise_multiplier: float, target_epsilon: float
) -> Sequence[Defence]:
    """Return the rows of every table: no defence, clipping with noise as a hospital sets it, and DP-SGD.

    DP-SGD is the training's own where it has one, else one that spends at most ``target_epsilon``. The warm-up of the
    head is left out there, as DP-SGD demands.
    """
    open_training = training.model_copy(update={"differential_privacy": None})
    terms = training.differential_privacy or DifferentialPrivacySpec(target_epsilon=target_epsilon)
    private = training.model_copy(update={"differential_privacy": terms, "head_warmup_epochs": 0})
    floor = PrivacySpec(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    return (
        Defence("none", open_training, PrivacySpec()),
        Defence("clip+noise", open_training, floor),
        Defence("dp-sgd", private, PrivacySpec()),
    )
