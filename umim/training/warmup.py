"""Training a new head alone, before the encoder is trained with it."""

from __future__ import annotations

import torch
from torch import Tensor

from umim.api.round import TrainingSpec
from umim.data.transforms import normalise
from umim.models.encoder import Encoder, pooled
from umim.models.heads import AnyHead, SegmentationHead
from umim.training.batches import Batches
from umim.training.optimiser import create_optimiser, set_learning_rate
from umim.training.runtime import Runtime
from umim.training.seeds import derive

LARGEST_MAPS = 1024
"""Images whose feature maps are kept at once: the first ones of a random order. Bounds the memory."""
RATE_FACTOR = 10.0
"""A head alone bears a higher rate than the encoder, and has few steps."""


def warm_up(encoder: Encoder, head: AnyHead, train: Batches, spec: TrainingSpec, runtime: Runtime) -> None:
    """Train the head in place for ``headWarmupEpochs`` passes on features of the encoder, which stays as it is.

    Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): a random head sends gradients into the
    encoder that distort its features. The features are computed once, from images that are not augmented, so that
    a pass costs next to nothing. For classes the mean over positions is all that the head sees, and all that is kept.
    """
    maps_NDHW, targets_N = _features(encoder, head, train, spec, runtime)
    optimiser = create_optimiser(head, spec)
    set_learning_rate(optimiser, min(1.0, spec.learning_rate * RATE_FACTOR))
    head.train()
    for epoch in range(spec.head_warmup_epochs):
        generator = torch.Generator().manual_seed(derive(spec.seed, "warm-up", epoch))
        for part in torch.split(torch.randperm(len(maps_NDHW), generator=generator), spec.batch_size):
            chosen = part.to(maps_NDHW.device)
            loss = head.loss(head(maps_NDHW[chosen]), targets_N[chosen])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()


def _features(
    encoder: Encoder, head: AnyHead, train: Batches, spec: TrainingSpec, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Return feature maps (N, D, H, W) in float32, 1 x 1 where the head pools them anyway, and the targets."""
    maps: list[Tensor] = []
    targets: list[Tensor] = []
    encoder.eval()
    with torch.no_grad(), runtime.autocast():
        for images, wanted in train.subset(LARGEST_MAPS, derive(spec.seed, "warm-up")).ordered():
            assert wanted is not None  # a head has targets
            map_BDHW = encoder(normalise(images))
            keep = map_BDHW if isinstance(head, SegmentationHead) else pooled(map_BDHW)[:, :, None, None]
            maps.append(keep.float())
            targets.append(wanted)
    return torch.cat(maps), torch.cat(targets)
