"""The reference that no federation can have: one encoder trained on all domains' data in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from umim.api.round import TrainingSpec
from umim.data.transforms import AugmentationConfig, normalise
from umim.evaluation.pack import Pack, datasets
from umim.models.encoder import Encoder
from umim.models.heads import AnyHead, create_head
from umim.models.state import Tensors
from umim.training.batches import Batches
from umim.training.optimiser import create_optimiser, descend, set_learning_rate
from umim.training.runtime import Runtime
from umim.training.schedule import learning_rate
from umim.training.seeds import derive
from umim.training.site import encoder_tensors


def train_pooled(encoder: Encoder, packs: Sequence[Pack], spec: TrainingSpec, runtime: Runtime) -> Tensors:
    """Return the encoder after ``spec.epochs`` passes over all domains, batches of all of them in a random order.

    One head a domain. The same steps and rates as the federated arms take at their hospitals.
    """
    parts = [
        Batches(data, np.arange(len(data)), spec.batch_size, runtime.device)
        for data in (datasets(pack, encoder.image_size, "test")[0] for pack in packs)
    ]
    heads: list[AnyHead] = [
        create_head(pack.task, encoder, part.targets(), derive(spec.seed, "head", pack.name)).to(runtime.device)
        for pack, part in zip(packs, parts, strict=True)
    ]
    both = nn.ModuleList([encoder, *heads]).train()
    optimiser, scaler = create_optimiser(both, spec), runtime.scaler()
    steps = spec.epochs * sum(part.steps for part in parts)
    step = 0
    for epoch in range(spec.epochs):
        generator = runtime.generator(derive(spec.seed, "augmentation", epoch))
        streams = [part.shuffled(derive(spec.seed, "order", epoch), AugmentationConfig(), generator) for part in parts]
        order = np.repeat(np.arange(len(parts)), [part.steps for part in parts])
        for chosen in np.random.default_rng(derive(spec.seed, "pool", epoch)).permutation(order):
            images, targets = next(streams[chosen])
            set_learning_rate(optimiser, learning_rate(step, steps, spec.learning_rate, spec.warmup_fraction))
            with runtime.autocast():
                assert targets is not None  # packs have targets
                loss = heads[chosen].loss(heads[chosen](encoder(normalise(images))), targets)
            descend(loss, both.parameters(), optimiser, scaler, spec.gradient_clip_norm)
            step += 1
    return encoder_tensors(encoder)
