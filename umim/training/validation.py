"""Measuring a learner on images it does not train on."""

from __future__ import annotations

import math

import torch

from umim.errors import TrainingError
from umim.training.batches import Batches
from umim.training.learner import Objective
from umim.training.runtime import Runtime


def measure(learner: Objective, batches: Batches, runtime: Runtime, seed: int) -> tuple[float, float]:
    """Return the mean loss and mean score over images, see ``Objective.measure``.

    The masks of masked image modelling come from the seed, so that two measurements compare like with like.
    Raises TrainingError when the loss is not finite.
    """
    generator = runtime.generator(seed)
    total = torch.zeros(2, dtype=torch.float64, device=runtime.device)
    learner.eval()
    with torch.inference_mode(), runtime.autocast():
        for images, targets in batches.ordered():
            loss, scores = learner.measure(images, targets, generator).double()
            total += torch.stack([loss * len(images), scores])
    mean_loss, mean_score = (total / batches.images).tolist()
    if not math.isfinite(mean_loss):
        raise TrainingError(f"the validation loss is {mean_loss}: lower spec.training.learningRate")
    return mean_loss, mean_score
