"""The table of defences that are audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from umim.api.hospital import PrivacySpec
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


def defences(training: TrainingSpec, clip_norm: float, noise_multiplier: float) -> Sequence[Defence]:
    """Return the rows of every table: no defence, and clipping with noise as a hospital sets it."""
    floor = PrivacySpec(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    return (Defence("none", training, PrivacySpec()), Defence("clip+noise", training, floor))
