"""Features of a frozen encoder: computed once a data set, probed many times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from umim.api.hospital import Task
from umim.data.dataset import ImageDataset
from umim.data.transforms import normalise, to_unit
from umim.evaluation.pack import HeldOut, Pack, datasets
from umim.models.encoder import Encoder, pooled
from umim.training.runtime import Runtime

BATCH_SIZE = 100


@dataclass(frozen=True)
class FeatureSet:
    """The features and targets of one side."""

    features: NDArray[np.float32]
    """classification and multilabel: pooled, (N, D); segmentation: feature maps (N, D, h, w)."""
    targets: NDArray[np.int64] | NDArray[np.uint8]
    """classification: (N,) int64; multilabel: (N, K) uint8 {0, 1}; segmentation: (N, S, S) uint8 {0, 1}."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Features:
    """What a frozen encoder says about a data set."""

    dataset: str
    """Name of the pack. It seeds the draws of labels."""
    task: Task
    """classification, multilabel or segmentation."""
    classes: tuple[str, ...]
    """Names of the classes or labels, see ``Pack.classes``."""
    train: FeatureSet
    """What a probe may learn from."""
    held_out: FeatureSet
    """What it is judged on."""


def extract(encoder: Encoder, pack: Pack, image_size: int, split: HeldOut, runtime: Runtime) -> Features:
    """Return the features of a pack's training part and of its test (or validation) part, in evaluation mode.

    ``encoder`` is on the runtime's device and takes images of ``image_size``; it stays as it is. Inputs are made
    as in training, without augmentation. Raises DataError when a validation part lacks a class.
    """
    train, held_out = datasets(pack, image_size, split)
    sets = [FeatureSet(_features(encoder, one, runtime), _targets(one)) for one in (train, held_out)]
    return Features(pack.name, pack.task, pack.classes, *sets)


def _features(encoder: Encoder, dataset: ImageDataset, runtime: Runtime) -> NDArray[np.float32]:
    parts = []
    training = encoder.training
    encoder.eval()
    with torch.inference_mode(), runtime.autocast():
        for images in torch.split(torch.from_numpy(dataset.images), BATCH_SIZE):
            map_BDHW = encoder(normalise(to_unit(images.to(runtime.device))))
            parts.append((map_BDHW if dataset.task == "segmentation" else pooled(map_BDHW)).float().cpu())
    encoder.train(training)
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _targets(dataset: ImageDataset) -> NDArray[np.int64] | NDArray[np.uint8]:
    assert dataset.targets is not None  # a pack has targets
    return dataset.targets
