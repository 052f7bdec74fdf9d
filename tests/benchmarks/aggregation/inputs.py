"""The updates that are merged: the shapes of a network, values from a seeded generator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

PARENT_SCALE, CHANGE_SCALE = 0.02, 1e-3
SEED = 20_180_302


@dataclass(frozen=True)
class Inputs:
    """A parent and updates on the disk."""

    parent: Path
    """The parent's file."""
    updates: tuple[Path, ...]
    """The updates' files."""
    samples: tuple[int, ...]
    """Their numbers of samples."""

    @property
    def bytes_of_updates(self) -> int:
        """Size of all updates."""
        return sum(path.stat().st_size for path in self.updates)

    @property
    def bytes_on_disk(self) -> int:
        """Size of all distinct updates."""
        return sum({stat.st_ino: stat.st_size for stat in (path.stat() for path in self.updates)}.values())

    def first(self, count: int, folder: Path) -> Inputs:
        """Return as many updates: the first ones, then hard links to them under other names.

        A link is opened, read and hashed like any file; only the disk and the page cache hold its bytes once.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = list(self.updates[:count])
        for number in range(len(paths), count):
            link = folder / f"{self.parent.parent.name}-{number:02}.safetensors"
            link.unlink(missing_ok=True)
            os.link(self.updates[number % len(self.updates)], link)
            paths.append(link)
        return Inputs(self.parent, tuple(paths), tuple(_samples(number) for number in range(count)))


def make_inputs(architecture: str, count: int, folder: Path) -> Inputs:
    """Write what is missing of a parent and its updates to a folder, and return all of them."""
    folder = folder / architecture
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "parent.safetensors", *(folder / f"update-{number:02}.safetensors" for number in range(count))]
    if not all(path.exists() for path in paths):
        print(f"inputs: {count} updates of {architecture} in {folder}", flush=True)
        parent = _normal(_shapes(architecture), 0, PARENT_SCALE)
        for number, path in enumerate(paths):
            if not path.exists():
                _write(parent if number == 0 else _moved(parent, number), path)
    return Inputs(paths[0], tuple(paths[1:]), tuple(_samples(number) for number in range(count)))


def _samples(number: int) -> int:
    return 100 + 37 * number


def _shapes(architecture: str) -> Mapping[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=0)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _normal(shapes: Mapping[str, tuple[int, ...]], number: int, scale: float) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng((SEED, number))
    return {name: random.standard_normal(shape, np.float32) * np.float32(scale) for name, shape in shapes.items()}


def _moved(parent: Mapping[str, NDArray[np.float32]], number: int) -> dict[str, NDArray[np.float32]]:
    changes = _normal({name: tensor.shape for name, tensor in parent.items()}, number, CHANGE_SCALE)
    return {name: np.add(change, parent[name], out=change) for name, change in changes.items()}


def _write(tensors: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), partial)
    partial.replace(path)
