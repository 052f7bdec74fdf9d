"""What the tests on a GPU train: a ViT-B/16 at 224 pixels on stripes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.unit.training import parts
from umim.api.hospital import Task
from umim.api.jobs import InitJobConfig, SiteJobConfig
from umim.data.dataset import ImageDataset
from umim.models.encoder import create_encoder
from umim.models.state import ModelState, Tensors
from umim.training.site import Trained, encoder_tensors

ARCHITECTURE = "vit_base_patch16_224"
SWIN = "swin_tiny_patch4_window7_224"
SIZE = 224
GIB = 2**30


def stripes(sides: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Noisy stripes of 16 pixels and any phase: rows for 0, columns for 1. (N, S, S)."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (len(sides), SIZE, SIZE), dtype=np.uint8)
    for index, side in enumerate(sides):
        band = ((np.arange(SIZE) + random.integers(32)) // 16 % 2 * 160).astype(np.uint8)
        images[index] += band[:, None] if side == 0 else band[None, :]
    return images


def dataset(count: int, task: Task = "classification", seed: int = 0) -> ImageDataset:
    """Stripes, whose direction is the class; the mask marks one half of the image. Two images a patient."""
    sides = np.arange(count) // 2 % 2
    masks = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    masks[sides == 0, : SIZE // 2] = 1
    masks[sides == 1, :, : SIZE // 2] = 1
    targets: dict[Task, Any] = {
        "classification": sides.astype(np.int64),
        "multilabel": np.stack([sides, 1 - sides], axis=1).astype(np.uint8),
        "segmentation": masks,
        "none": None,
    }
    names: dict[Task, tuple[str, ...]] = {"segmentation": ("foreground",), "none": ()}
    images = stripes(sides, seed)[:, None]
    return ImageDataset(images, task, targets[task], names.get(task, ("rows", "columns")), np.arange(count) // 2)


def site_config(
    work: Path, task: Task = "classification", architecture: str = ARCHITECTURE, **training: Any
) -> SiteJobConfig:
    """Configuration of a site's Job."""
    values = {"epochs": 4, "batch_size": 32, "learning_rate": 1e-4, **training}
    made = parts.site_config(work, task, **values)
    return made.model_copy(update={"architecture": architecture, "image_size": SIZE})


def init_config(work: Path, **optimisation: Any) -> InitJobConfig:
    """Configuration of the Job that pretrains on the server."""
    values = {"epochs": 4, "batch_size": 32, "learning_rate": 3e-4, **optimisation}
    made = parts.init_config(work, **values)
    return made.model_copy(update={"architecture": ARCHITECTURE, "image_size": SIZE})


def parent(architecture: str = ARCHITECTURE, seed: int = 7) -> ModelState:
    """A new encoder."""
    return ModelState(encoder_tensors(create_encoder(architecture, SIZE, seed)))


def tensors_of(trained: Trained | ModelState) -> Tensors:
    """All tensors that a training returns, in one mapping."""
    state = trained.state if isinstance(trained, Trained) else trained
    heads = {f"{task}/{name}": value for task, head in state.heads.items() for name, value in head.items()}
    return {**state.encoder, **{f"mim/{name}": value for name, value in state.mim.items()}, **heads}


def assert_leaves_the_gpu(tensors: Tensors) -> None:
    """What a training returns lies in the host's memory, in float32, and is finite."""
    assert {value.device.type for value in tensors.values()} == {"cpu"}
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in tensors.values())


def distance(first: Tensors, second: Tensors) -> float:
    """L2 norm of the difference."""
    return sum((first[name].double() - second[name].double()).square().sum().item() for name in first) ** 0.5
