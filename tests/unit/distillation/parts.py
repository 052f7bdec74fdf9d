"""Small models that a distillation starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.unit.training.parts import ARCHITECTURE, SIZE, around, dataset
from umim.api.base import Metrics
from umim.api.round import DistillationSpec
from umim.distillation.run import Student, Teacher, distil
from umim.models.encoder import create_encoder
from umim.models.mim import create_mim
from umim.models.state import ModelState
from umim.training.checkpoint import Checkpoints
from umim.training.runtime import Runtime
from umim.training.site import encoder_tensors, tensors_of


def student(count: int = 20) -> Student:
    """The student's shape, with images whose labels nobody may look at."""
    return Student(ARCHITECTURE, SIZE, dataset("none", count=count))


def encoder(seed: int) -> dict[str, Tensor]:
    return encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed))


def mixed(first: int, second: int, share: float) -> dict[str, Tensor]:
    """An encoder between those of two seeds: ``share`` of the second."""
    end = encoder(second)
    return {name: value.lerp(end[name], share) for name, value in encoder(first).items()}


def state_of(seed: int, *, decoder: bool) -> ModelState:
    mim = tensors_of(create_mim(create_encoder(ARCHITECTURE, SIZE, seed), 0.75, 1)) if decoder else {}
    return ModelState(encoder(seed), mim)


def distilled(
    folder: Path, runtime: Runtime, merged: ModelState, teachers: list[Teacher], **spec: Any
) -> tuple[ModelState, Metrics]:
    """What distillation makes of ``merged``; the parent is the model of seed 7."""
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **spec}
    return distil(
        DistillationSpec(**values),
        student(),
        merged,
        state_of(7, decoder=bool(merged.mim)),
        teachers,
        Checkpoints(folder, "0" * 64),
        around(runtime),
    )
