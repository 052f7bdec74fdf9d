"""Updates on the local disk, read one tensor at a time: memory does not grow with the number of sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from umim.api.artifacts import HeadExclusion, TensorInfo
from umim.api.hospital import Task
from umim.artifacts.tensors import open_safetensors, read_header


class TensorSource(Protocol):
    """Named tensors that are read when asked for."""

    infos: dict[str, TensorInfo]
    """Shape and type of every tensor by name, sorted by name."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor on the CPU."""
        ...


@dataclass(frozen=True)
class WeightedUpdate:
    """One site's trained tensors and how much they count."""

    site: str
    """The site as namespace.name."""
    samples: int
    """Number of training images, at least 1."""
    tensors: TensorSource
    """The trained tensors, with the names, shapes and types of the parent's."""


@dataclass(frozen=True)
class SpilledHead:
    """A usable task head on the local disk."""

    path: Path
    """The tensors file. Its tensors are float32 and finite."""
    task_name: str
    """Name of the task."""
    task: Task
    """What the head predicts."""
    classes: tuple[str, ...]
    """Class names in the order of the head's outputs."""
    tensors: Mapping[str, TensorInfo]
    """Shape and type of every tensor by name."""

    def agrees(self, other: SpilledHead) -> bool:
        """Say whether both heads mean the same and can be averaged."""
        mine = (self.task_name, self.task, self.classes, self.tensors)
        return mine == (other.task_name, other.task, other.classes, other.tensors)


@dataclass(frozen=True)
class SpilledUpdate:
    """A validated update on the local disk."""

    site: str
    """The site as namespace.name."""
    samples: int
    """Number of training images."""
    digest: str
    """sha256 of the file."""
    path: Path
    """The tensors file."""
    metrics: Mapping[str, float]
    """Figures that the hospital let out."""
    head: SpilledHead | HeadExclusion | None = None
    """The task head that came with it, or why it cannot be used. None: none came."""


class SpilledTensors(Mapping[str, torch.Tensor]):
    """The tensors of a file on the local disk as a mapping that holds none of them: each look reads one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = tuple(read_header(path))

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        with open_safetensors(self._path) as reader:
            return reader.read(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_updates(updates: Sequence[SpilledUpdate]) -> Iterator[list[WeightedUpdate]]:
    """Open updates for a strategy, sorted by site: the order of every sum, whatever order they arrived in."""
    with ExitStack() as stack:
        yield [
            WeightedUpdate(update.site, update.samples, stack.enter_context(open_safetensors(update.path)))
            for update in sorted(updates, key=lambda update: update.site)
        ]
