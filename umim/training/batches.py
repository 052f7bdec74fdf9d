"""From the data set in memory to batches on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from umim.data.dataset import ImageDataset
from umim.data.transforms import AugmentationConfig, augment, to_unit
from umim.training.secret import Entropy, uniform

Batch = tuple[Tensor, Tensor | None]
"""Images float32 [0, 1] (B, C, S, S) and targets (see ``ImageDataset.targets``), on the device."""


class Batches:
    """One side of a split, cut into batches. Images stay 8-bit until they are on the device."""

    def __init__(
        self, dataset: ImageDataset, indices: NDArray[np.int64], batch_size: int, device: torch.device
    ) -> None:
        self._dataset = dataset
        self._images = torch.from_numpy(dataset.images)
        self._targets = None if dataset.targets is None else torch.from_numpy(dataset.targets)
        self._masks = dataset.task == "segmentation"
        self._indices = torch.from_numpy(indices)
        self._batch_size = batch_size
        self._device = device
        self.images = len(indices)
        """Number of images."""
        self.steps = -(-len(indices) // batch_size)
        """Batches a pass. The last one may be smaller."""

    def shuffled(self, seed: int, config: AugmentationConfig, generator: torch.Generator) -> Iterator[Batch]:
        """Yield one pass in an order that depends on the seed alone, augmented with ``generator``."""
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(seed))
        for images, targets in self._load(self._indices[order]):
            moved, masks = augment(images, targets if self._masks else None, config, generator)
            yield moved, masks if self._masks else targets

    def drawn(
        self, rate: float, size: int, entropy: Entropy, config: AugmentationConfig, generator: torch.Generator
    ) -> Iterator[Batch]:
        """Yield one Poisson sample, in parts of at most ``size``: each image is in it with chance ``rate``.

        Nothing is yielded where no image is in it. Augmented with ``generator``, which lives on the device.
        """
        chosen = self._indices[uniform(self.images, entropy) < rate]
        for images, targets in self._load(chosen, size):
            moved, masks = augment(images, targets if self._masks else None, config, generator)
            yield moved, masks if self._masks else targets

    def ordered(self) -> Iterator[Batch]:
        """Yield one pass in order, not augmented."""
        return self._load(self._indices)

    def subset(self, images: int, seed: int) -> Batches:
        """Return at most so many of the images, chosen by the seed alone."""
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(seed))[:images]
        return Batches(self._dataset, self._indices[order].numpy(), self._batch_size, self._device)

    def targets(self) -> Tensor:
        """Return the targets of all images. Raises ValueError where the data set has none."""
        if self._targets is None:
            raise ValueError("the data set has no targets")
        return self._targets[self._indices]

    def _load(self, indices: Tensor, size: int | None = None) -> Iterator[Batch]:
        for part in torch.split(indices, size or self._batch_size) if len(indices) else ():
            images = to_unit(self._to_device(self._images[part]))
            yield images, None if self._targets is None else self._to_device(self._targets[part])

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cpu":
            return tensor
        # Pinned memory lets the copy run beside the computation of the batch before.
        return tensor.pin_memory().to(self._device, non_blocking=True)
