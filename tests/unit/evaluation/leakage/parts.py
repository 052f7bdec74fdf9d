"""A site of small images, for attacks that take seconds."""

from __future__ import annotations

import numpy as np

from umim.data.dataset import ImageDataset
from umim.evaluation.leakage.membership import Site
from umim.models.encoder import create_encoder
from umim.models.state import ModelState
from umim.training.site import encoder_tensors

ARCHITECTURE = "test_vit"
SIZE = 32
CLASSES = 4


def blobs(count: int, channels: int = 1, seed: int = 0) -> ImageDataset:
    """Smooth random images with random labels: nothing can be learned of them, but by heart. Two images a patient."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, channels, 8, 8)).astype(np.uint8)
    images = coarse.repeat(SIZE // 8, axis=2).repeat(SIZE // 8, axis=3)
    targets = random.permutation(np.arange(count) % CLASSES).astype(np.int64)
    names = tuple(str(number) for number in range(CLASSES))
    return ImageDataset(images, "classification", targets, names, np.arange(count) // 2)


def site(count: int = 48, channels: int = 1) -> Site:
    parent = ModelState(encoder_tensors(create_encoder(ARCHITECTURE, SIZE, seed=7)))
    return Site(ARCHITECTURE, parent, blobs(count, channels), seed=0)
