"""Task heads. They are private: made anew at each site from the seed, and never uploaded."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from umim.api.hospital import Task
from umim.models.encoder import Encoder, pooled

SMALLEST_WIDTH = 16
LARGEST_WIDTH = 128


class Head(Protocol):
    """What a task needs: an output from the feature map, a loss, and a score of the output."""

    score_name: str
    """Name of the score in the metrics."""

    def __call__(self, map_BDHW: Tensor) -> Tensor:
        """Return the logits."""
        ...

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the batch."""
        ...

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return one score in [0, 1] an image, (B,)."""
        ...


class ClassificationHead(nn.Module):
    """One class an image: linear, softmax cross-entropy weighted against imbalance."""

    score_name = "accuracy"

    def __init__(self, width: int, class_weights: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(class_weights))
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.linear(pooled(map_BDHW))
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean of weight[class] * cross-entropy. Weights have mean 1 over the training images."""
        losses_B = functional.cross_entropy(logits.float(), targets, reduction="none")
        return (losses_B * self.class_weights[targets]).mean()

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the likeliest class is right."""
        return (logits.argmax(dim=1) == targets).float()


class MultilabelHead(nn.Module):
    """Several labels an image: linear, one binary cross-entropy a label, positives weighted against imbalance."""

    score_name = "accuracy"

    def __init__(self, width: int, positive_weights: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(positive_weights))
        self.register_buffer("positive_weights", positive_weights, persistent=False)
        self.positive_weights: Tensor

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.linear(pooled(map_BDHW))
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over images and labels."""
        return functional.binary_cross_entropy_with_logits(
            logits.float(), targets.float(), pos_weight=self.positive_weights
        )

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Share of the labels decided rightly at probability 0.5."""
        return ((logits > 0) == targets.bool()).float().mean(dim=1)


class SegmentationHead(nn.Module):
    """A mask an image: a light decoder of transposed convolutions on the feature map, loss BCE + Dice.

    Transposed convolutions with stride equal to the kernel reach full size for every patch size and have
    deterministic gradients on GPUs, which interpolation has not.
    """

    score_name = "dice"

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        channels = max(SMALLEST_WIDTH, min(LARGEST_WIDTH, width))
        layers: list[nn.Module] = [nn.Conv2d(width, channels, 1)]
        for factor in _prime_factors(stride):
            narrower = max(SMALLEST_WIDTH, channels // 2)
            layers += [
                nn.ConvTranspose2d(channels, narrower, factor, stride=factor),
                nn.GroupNorm(1, narrower),
                nn.GELU(),
                nn.Conv2d(narrower, narrower, 3, padding=1),
            ]
            channels = narrower
        self.decoder = nn.Sequential(*layers, nn.GELU(), nn.Conv2d(channels, 1, 1))

    def forward(self, map_BDHW: Tensor) -> Tensor:
        """Return logits (B, H, W) at the size of the image."""
        logits: Tensor = self.decoder(map_BDHW)
        return logits[:, 0]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy plus 1 - soft Dice, the mean over images."""
        logits, targets = logits.float(), targets.float()
        bce = functional.binary_cross_entropy_with_logits(logits, targets)
        return bce + 1 - _dice(logits.sigmoid(), targets).mean()

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Dice of the mask at probability 0.5; about 1 where both masks are empty."""
        return _dice((logits > 0).float(), targets.float())


def _dice(prediction_BHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Return Dice per image, smoothed by one pixel."""
    overlap_B = (prediction_BHW * target_BHW).sum(dim=(1, 2))
    total_B = prediction_BHW.sum(dim=(1, 2)) + target_BHW.sum(dim=(1, 2))
    return (2 * overlap_B + 1) / (total_B + 1)


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


AnyHead = ClassificationHead | MultilabelHead | SegmentationHead


def create_head(task: Task, encoder: Encoder, targets: Tensor, seed: int, *, weighted: bool = True) -> AnyHead:
    """Return the head of a task with weights from the seed; ``targets`` of the training images set loss weights.

    Not ``weighted``: all loss weights are 1. Weights depend on all labels at once, so that with them one image more
    would change the gradients of all others. Raises ValueError for task none, which has no head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task == "classification":
            return ClassificationHead(encoder.width, _weights(class_weights(targets), weighted))
        if task == "multilabel":
            return MultilabelHead(encoder.width, _weights(positive_weights(targets), weighted))
        if task == "segmentation":
            return SegmentationHead(encoder.width, encoder.stride)
    raise ValueError("task none has no head")


def _weights(found_K: Tensor, weighted: bool) -> Tensor:
    return found_K if weighted else torch.ones_like(found_K)


def class_weights(targets_B: Tensor) -> Tensor:
    """Return (K,) weights inverse to the classes' frequency, with mean 1 over the images."""
    counts_K = torch.bincount(targets_B).float()
    present = counts_K > 0
    weights_K = torch.where(present, len(targets_B) / counts_K.clamp_min(1), torch.zeros_like(counts_K))
    return weights_K / present.sum()


def positive_weights(targets_BK: Tensor) -> Tensor:
    """Return (K,) weights negatives / positives, within [1/20, 20] so that a rare label does not dominate."""
    positives_K = targets_BK.float().sum(dim=0)
    return ((len(targets_BK) - positives_K) / positives_K.clamp_min(1)).clamp(0.05, 20)
