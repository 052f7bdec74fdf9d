"""What an aggregation has received: updates in the store, heads on the local disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from umim.api.artifacts import Attestation, HeadExclusion, TensorInfo
from umim.api.hospital import Task
from umim.artifacts.tensors import open_safetensors, read_header


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
class ReceivedUpdate:
    """An update in the store whose manifest is as it should be. Its tensors are checked when they are read."""

    site: str
    """The site as namespace.name."""
    samples: int
    """Number of training images."""
    digest: str
    """sha256 of the tensors file."""
    key: str
    """Object key of the tensors file."""
    size_bytes: int
    """Size of the tensors file in bytes."""
    metrics: Mapping[str, float]
    """Figures that the hospital let out."""
    head: SpilledHead | HeadExclusion | None = None
    """The task head that came with it, or why it cannot be used. None: none came."""
    attestation: Attestation | None = None
    """What the hospital signed, verified. None: it has no key."""


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
