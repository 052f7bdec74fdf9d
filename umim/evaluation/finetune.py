"""Short fine-tuning with an equal budget: what an encoder is worth as a start."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from umim.api.round import TrainingSpec
from umim.data.dataset import ImageDataset
from umim.data.transforms import AugmentationConfig, normalise
from umim.evaluation.draws import draw, number_of_draws
from umim.evaluation.metrics import dice, macro_auroc, metric_of
from umim.evaluation.pack import HeldOut, Pack, datasets, one_hot
from umim.evaluation.probe import ProbeResult
from umim.models.encoder import Encoder
from umim.models.heads import AnyHead, create_head
from umim.training.batches import Batch, Batches
from umim.training.optimiser import create_optimiser, descend, set_learning_rate
from umim.training.runtime import Runtime
from umim.training.schedule import learning_rate
from umim.training.seeds import derive
from umim.training.warmup import warm_up


@dataclass(frozen=True)
class Budget:
    """What each model may spend on one draw of labels."""

    steps: int = 60
    """Steps of encoder and head."""
    head_steps: int = 60
    """Steps of the head alone before, rounded up to whole passes."""
    batch_size: int = 32
    """Images a step, fewer where there are fewer labels."""
    learning_rate: float = 5e-4
    """Peak of the cosine schedule, of AdamW."""
    weight_decay: float = 0.05
    """Of AdamW."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the rate rises."""


def finetune(
    encoder: Encoder,
    pack: Pack,
    runtime: Runtime,
    *,
    split: HeldOut = "test",
    labels_per_class: int | None = None,
    draws: int | None = None,
    seed: int = 0,
    budget: Budget | None = None,
) -> ProbeResult:
    """Return how well copies of the encoder do after a short training with few labels, averaged over draws.

    The labels are those of ``linear_probe`` at the same number and seed. The head is warmed up on frozen features,
    then both are trained for a fixed number of steps with light augmentation. Head, order and augmentation depend
    on the seed, the data set and the draw, never on the model. Classes are judged by macro-AUROC, masks by Dice
    at probability 0.5. ``draws`` None: 5, with all labels 1. ``encoder`` is on the runtime's device and stays as
    it is. Raises DataError when a class has fewer labels.
    """
    train, held_out = datasets(pack, encoder.image_size, split)
    assert train.targets is not None  # a pack has targets
    scores, images = [], 0
    count = number_of_draws(labels_per_class, draws)
    for number in range(count):
        chosen = draw(train.targets, pack.task, pack.classes, pack.name, labels_per_class, number, seed)
        own_seed = derive(seed, "fine-tuning", pack.name, labels_per_class or "all", number)
        network, head = _fit(deepcopy(encoder), train, chosen, runtime, budget or Budget(), own_seed)
        images += len(chosen)
        scores.append(_score(network, head, held_out, runtime))
    return ProbeResult(
        float(np.mean(scores)), tuple(scores), metric_of(pack.task), round(images / count), len(held_out)
    )


def _fit(
    encoder: Encoder, dataset: ImageDataset, chosen: NDArray[np.int64], runtime: Runtime, budget: Budget, seed: int
) -> tuple[Encoder, AnyHead]:
    train = Batches(dataset, chosen, budget.batch_size, runtime.device)
    head = create_head(dataset.task, encoder, train.targets(), derive(seed, "head")).to(runtime.device)
    spec = TrainingSpec(
        epochs=1,
        batch_size=budget.batch_size,
        learning_rate=budget.learning_rate,
        weight_decay=budget.weight_decay,
        head_warmup_epochs=-(-budget.head_steps // train.steps),
        seed=seed % 2**31,
    )
    warm_up(encoder, head, train, spec, runtime)
    both = nn.ModuleList([encoder, head])
    optimiser, scaler = create_optimiser(both, spec), runtime.scaler()
    torch.manual_seed(derive(seed, "dropout"))  # Swin drops paths by the global generator
    both.train()
    for step, (images, targets) in zip(range(budget.steps), _stream(train, runtime, seed), strict=False):
        set_learning_rate(optimiser, learning_rate(step, budget.steps, budget.learning_rate, budget.warmup_fraction))
        with runtime.autocast():
            assert targets is not None  # a pack has targets
            loss = head.loss(head(encoder(normalise(images))), targets)
        descend(loss, both.parameters(), optimiser, scaler, spec.gradient_clip_norm)
    return encoder, head


def _stream(train: Batches, runtime: Runtime, seed: int) -> Iterator[Batch]:
    """Yield augmented batches, pass after pass, without end."""
    generator = runtime.generator(derive(seed, "augmentation"))
    number = 0
    while True:
        yield from train.shuffled(derive(seed, "order", number), AugmentationConfig(), generator)
        number += 1


def _score(encoder: Encoder, head: AnyHead, held_out: ImageDataset, runtime: Runtime) -> float:
    logits, targets = _predict(encoder, head, held_out, runtime)
    if held_out.task == "segmentation":
        return float(dice((logits > 0).numpy(), targets.astype(np.uint8)).mean())
    scores = logits.sigmoid() if held_out.task == "multilabel" else logits.softmax(dim=1)
    return macro_auroc(scores.double().numpy(), one_hot(targets, len(held_out.classes)))


def _predict(
    encoder: Encoder, head: AnyHead, held_out: ImageDataset, runtime: Runtime
) -> tuple[Tensor, NDArray[np.int64] | NDArray[np.uint8]]:
    assert held_out.targets is not None  # a pack has targets
    batches = Batches(held_out, np.arange(len(held_out)), 100, runtime.device)
    encoder.eval()
    head.eval()
    with torch.inference_mode(), runtime.autocast():
        logits = torch.cat([head(encoder(normalise(images))).float().cpu() for images, _ in batches.ordered()])
    return logits, held_out.targets
