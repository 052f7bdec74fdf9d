"""Tiny data sets: random textures whose class a small model learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 32
CLASSES = 2


def write_textures(path: Path, count: int, seed: int) -> None:
    """Write a MedMNIST archive of noisy stripes, horizontal (class 0) or vertical (class 1), four images a patient."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) // 4 % CLASSES).astype(np.uint8)
    images = np.stack([_stripes(int(label), random) for label in labels])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, train_images=images, train_labels=labels[:, None], train_patients=np.arange(count) // 4)


def write_unlabelled(path: Path) -> None:
    """Write an archive that lacks the labels that a classification needs."""
    np.savez(path, train_images=np.zeros((8, SIDE, SIDE), np.uint8))


def _stripes(label: int, random: np.random.Generator) -> NDArray[np.uint8]:
    wave = 127 + 100 * np.sin(np.arange(SIDE) * random.uniform(0.5, 1.0) + random.uniform(0, 6))
    image = np.tile(wave, (SIDE, 1)) if label else np.tile(wave[:, None], (1, SIDE))
    noisy: NDArray[np.uint8] = np.clip(image + random.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    return noisy
