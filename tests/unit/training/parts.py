"""Small real trainings: a ViT of 0.3 million parameters on synthetic images."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umim.api.base import ModelReference
from umim.api.hospital import PrivacySpec, Task
from umim.api.jobs import DatasetLocation, InitJobConfig, SiteJobConfig
from umim.api.round import OptimisationSpec, Progress, TrainingSpec
from umim.data.dataset import ImageDataset
from umim.models.encoder import create_encoder
from umim.models.state import Tensors
from umim.training.reporter import Clock
from umim.training.runtime import Runtime
from umim.training.site import Surroundings, encoder_tensors

ARCHITECTURE = "test_vit"
SIZE = 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Ticks:
    """A clock that advances by a fixed time at each look."""

    def __init__(self, seconds: float) -> None:
        self.time = 0.0
        self._seconds = seconds

    def __call__(self) -> float:
        self.time += self._seconds
        return self.time


def clock(seconds: float = 0.001) -> Clock:
    return Clock(now=lambda: NOW, monotonic=Ticks(seconds))


def dataset(task: Task = "classification", count: int = 20, patients: int = 10) -> ImageDataset:
    """Images with rows or columns of stripes, which the label names, and a brighter half, which the mask marks."""
    random = np.random.default_rng(0)
    images = random.integers(0, 20, (count, 1, SIZE, SIZE), dtype=np.uint8)
    sides = np.arange(count) // 2 % 2
    masks = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    for index, side in enumerate(sides):
        half = slice(0, SIZE // 2) if side == 0 else slice(SIZE // 2, SIZE)
        masks[index, half] = 1
        # A random phase: stripes in step with the patches would look unlike any augmented image.
        stripes = ((np.arange(SIZE) + random.integers(8)) // 4 % 2 * 100).astype(np.uint8)
        images[index, 0] += stripes[:, None] if side == 0 else stripes[None, :]
    images += (masks * 60)[:, None]
    targets: Any = {
        "classification": sides.astype(np.int64),
        "multilabel": np.stack([sides, 1 - sides], axis=1).astype(np.uint8),
        "segmentation": masks,
        "none": None,
    }[task]
    classes = {
        "classification": ("rows", "columns"),
        "multilabel": ("rows", "columns"),
        "segmentation": ("foreground",),
    }
    return ImageDataset(images, task, targets, classes.get(task, ()), np.arange(count) * patients // count)


def site_config(work: Path, task: Task = "classification", **training: Any) -> SiteJobConfig:
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **training}
    return SiteJobConfig(
        round_namespace="federation",
        round_name="r",
        round_uid="uid-1",
        attempt=1,
        architecture=ARCHITECTURE,
        image_size=SIZE,
        site="hospital-a.radiology",
        parent=ModelReference(name="base", digest="0" * 64),
        training=TrainingSpec(**values),
        data=DatasetLocation(path="/data", format="npz", task=task),
        work_path=str(work),
        privacy=PrivacySpec(),
    )


def init_config(work: Path, init: Any = "mim", **optimisation: Any) -> InitJobConfig:
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, **optimisation}
    return InitJobConfig(
        round_namespace="federation",
        round_name="r",
        round_uid="uid-1",
        attempt=1,
        architecture=ARCHITECTURE,
        image_size=SIZE,
        init=init,
        optimisation=OptimisationSpec(**values),
        data=DatasetLocation(path="/data", format="npz", task="none"),
        work_path=str(work),
    )


def parent() -> dict[str, Tensor]:
    return encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed=7))


class Kill(BaseException):
    """Ends a training as a signal would: no handler in the project may catch it."""


def around(runtime: Runtime, reports: list[Progress] | None = None, times: Clock | None = None) -> Surroundings:
    return Surroundings(runtime, (reports if reports is not None else []).append, times or clock())


def kill_after(runtime: Runtime, steps: int) -> Surroundings:
    """Surroundings in which the training dies once ``steps`` steps are done."""

    def sink(progress: Progress) -> None:
        if progress.images_per_second is not None and progress.step >= steps:  # not a merge's
            raise Kill

    return Surroundings(runtime, sink, clock(seconds=10))


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
