"""Small archives in the form of the benchmark's packs, with a task that can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umim.models.encoder import Encoder, create_encoder

ARCHITECTURE = "test_vit"
SIZE = 32
Arrays = dict[str, Any]


def encoder(seed: int = 7) -> Encoder:
    return create_encoder(ARCHITECTURE, SIZE, seed)


def write(folder: Path, name: str = "stripes", **arrays: Any) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path


def stripes(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Noise with stripes for 0, brighter for 1, as it is for 2: an untrained encoder tells them apart."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (len(labels), SIZE, SIZE), dtype=np.uint8)
    for index, label in enumerate(labels):
        band = ((np.arange(SIZE) + random.integers(8)) // 4 % 2 * 160).astype(np.uint8)
        images[index] += (band[:, None], 120, 0)[label]
    return images


def classification(train: int = 40, test: int = 20) -> Arrays:
    """Labels 3 and 5 in turn, two images a group."""
    arrays: Arrays = {}
    for side, count, first in (("train", train, 0), ("test", test, 1000)):
        numbers = np.arange(count) % 2
        arrays[f"{side}_images"] = stripes(numbers, seed=first)
        arrays[f"{side}_labels"] = numbers * 2 + 3
        arrays[f"{side}_groups"] = first + np.arange(count) // 2
    return arrays


def multilabel(train: int = 40, test: int = 20) -> Arrays:
    """Column 0: stripes; column 1: bright; every fourth image has neither."""
    arrays: Arrays = {}
    for side, count, first in (("train", train, 0), ("test", test, 1000)):
        numbers = np.asarray([0, 1, 0, 2] * (count // 4))
        arrays[f"{side}_images"] = stripes(numbers, seed=first)
        arrays[f"{side}_labels"] = np.stack([numbers == 0, numbers == 1], axis=1).astype(np.uint8)
    return arrays


def segmentation(train: int = 16, test: int = 8) -> Arrays:
    """A bright square on noise, which the mask marks; in the first image there is none."""
    arrays: Arrays = {}
    for side, count, seed in (("train", train, 0), ("test", test, 1)):
        random = np.random.default_rng(seed)
        images = random.integers(0, 60, (count, SIZE, SIZE), dtype=np.uint8)
        masks = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
        for index in range(1, count):
            row, column = random.integers(0, SIZE - 12, 2)
            images[index, row : row + 12, column : column + 12] += 150
            masks[index, row : row + 12, column : column + 12] = 1
        arrays |= {f"{side}_images": images, f"{side}_masks": masks}
    return arrays


def without(arrays: Arrays, *names: str) -> Arrays:
    return {name: value for name, value in arrays.items() if name not in names}
