"""The server's learning after a merge: distillation with masked image modelling, and what it is judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from umim.api.base import Metrics
from umim.api.round import DistillationSpec
from umim.data.dataset import ImageDataset
from umim.data.transforms import normalise
from umim.distillation.features import FeatureDistiller, FeatureOptions
from umim.distillation.names import check_distillation
from umim.models.encoder import Encoder
from umim.models.state import ModelState, Tensors
from umim.training.batches import Batches
from umim.training.checkpoint import Checkpoints
from umim.training.engine import Fit
from umim.training.runtime import Runtime
from umim.training.seeds import derive
from umim.training.site import Surroundings, encoder_tensors, loaded_encoder, loaded_mim, tensors_of

MEASURED_IMAGES = 1024
"""Images of the server, drawn by the seed, on which a model's MIM loss is measured."""
MEASURED_BATCH = 128
MEASURED_MASK = 0.75


@dataclass(frozen=True)
class Teacher:
    """The encoder of one hospital."""

    site: str
    """The site as namespace.name."""
    weight: int
    """How much it counts beside the others, at least 1."""
    encoder: Tensors
    """The trained tensors."""


@dataclass(frozen=True)
class Student:
    """Which model learns, from which images."""

    architecture: str
    """timm name of the encoder."""
    image_size: int
    """Side of the square input in pixels."""
    dataset: ImageDataset
    """The server's images. Labels are not looked at."""

    def load(self, tensors: Tensors) -> Encoder:
        """Return an encoder of this kind with tensors, see ``loaded_encoder``."""
        return loaded_encoder(self.architecture, self.image_size, tensors)


def distil(
    spec: DistillationSpec,
    student: Student,
    merged: ModelState,
    parent: ModelState,
    teachers: Sequence[Teacher],
    checkpoints: Checkpoints,
    around: Surroundings,
) -> tuple[ModelState, Metrics]:
    """Return the merged model after it learned the teachers' features, and figures named ``distillation_*``.

    Teachers count by weight and are taken in the order of their sites. The result has the MIM decoder as trained;
    heads and the server's optimiser are as in ``merged``. Raises ConfigError for strategy and options, ArtifactError
    where tensors do not fit, TrainingError when a loss is not finite.
    """
    check_distillation(spec)
    options = FeatureOptions(**spec.options)
    device = around.runtime.device
    encoder = student.load(merged.encoder).to(device)
    mim = loaded_mim(encoder, merged.mim, spec.mask_ratio, spec.seed).to(device)
    chosen = sorted(teachers, key=lambda teacher: (-teacher.weight, teacher.site))[: max(1, int(options.teachers))]
    chosen.sort(key=lambda teacher: teacher.site)
    total = sum(teacher.weight for teacher in chosen)
    objective = FeatureDistiller(
        encoder,
        mim,
        [student.load(teacher.encoder).to(device) for teacher in chosen],
        student.load(parent.encoder).to(device),
        [teacher.weight / total for teacher in chosen],
        spec.mim_weight,
        options,
    ).to(device)
    images = Batches(student.dataset, np.arange(len(student.dataset)), spec.batch_size, device)
    if spec.images is not None:
        images = images.subset(spec.images, derive(spec.seed, "distillation"))
    fit = Fit(objective, images, None, spec, around.runtime, checkpoints, around.sink, around.clock)
    metrics = fit.run()
    state = replace(merged, encoder=encoder_tensors(encoder), mim=tensors_of(mim))
    return state, {"distillation_loss_last": metrics["train_loss_last"], "distillation_seconds": metrics["seconds"]}


def server_mim_loss(state: ModelState, student: Student, seed: int, runtime: Runtime) -> float | None:
    """Return the MIM loss of a model on the server's images, or None where it has no decoder.

    At most ``MEASURED_IMAGES`` images and the masks come from the seed, so that models are compared on the same.
    """
    if not state.mim:
        return None
    encoder = student.load(state.encoder).to(runtime.device).eval()
    mim = loaded_mim(encoder, state.mim, MEASURED_MASK, seed).to(runtime.device).eval()
    batches = Batches(student.dataset, np.arange(len(student.dataset)), MEASURED_BATCH, runtime.device)
    generator = runtime.generator(derive(seed, "server MIM loss"))
    total, images = torch.zeros((), dtype=torch.float64), 0
    with torch.inference_mode(), runtime.autocast():
        for batch, _ in batches.subset(MEASURED_IMAGES, derive(seed, "server images")).ordered():
            total += mim.loss(encoder, normalise(batch), generator).double().cpu() * len(batch)
            images += len(batch)
    return (total / images).item()


def choose_scale(
    scales: Sequence[float], merged: ModelState, parent: ModelState, student: Student, seed: int, runtime: Runtime
) -> tuple[float, ModelState]:
    """Return the factor for the merged change whose model has the smallest server MIM loss, and that model.

    A loss that is not finite counts as the largest. Without a decoder to measure with, the first factor is taken.
    """
    candidates = [(scale, scaled(merged, parent, scale)) for scale in scales]
    if len(candidates) == 1 or not merged.mim:
        return candidates[0]
    losses = [server_mim_loss(state, student, seed, runtime) for _, state in candidates]
    comparable = [loss if loss is not None and math.isfinite(loss) else math.inf for loss in losses]
    return candidates[comparable.index(min(comparable))]


def scaled(merged: ModelState, parent: ModelState, scale: float) -> ModelState:
    """Return parent + scale * (merged - parent) for the encoder's floating-point tensors."""
    if scale == 1:
        return merged
    encoder = dict(merged.encoder)
    for name, value in merged.encoder.items():
        if value.is_floating_point():
            before = parent.encoder[name].double()
            encoder[name] = (before + scale * (value.double() - before)).to(value.dtype)
    return replace(merged, encoder=encoder)
