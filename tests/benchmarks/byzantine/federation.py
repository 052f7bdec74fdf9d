"""Eight sites with different mixtures of classes, and the small model that they train: many federations at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn import functional

from tests.benchmarks.byzantine.attacks import Changes, Liars

SITES = 8
CLASSES = 10
HIDDEN = 32
FEWEST_IMAGES = 16
"""Every site has at least so many images: what a hospital with fewer sends says little about the rules."""
TEST_SHARE = 0.25
LOCAL_STEPS = 15
BATCH = 16
LEARNING_RATE = 0.3
SHAPES = {
    "hidden.weight": (HIDDEN, 64),
    "hidden.bias": (HIDDEN,),
    "head.weight": (CLASSES, HIDDEN),
    "head.bias": (CLASSES,),
}
"""The tensors of the model, in the order in which they lie in a vector of it."""
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


@dataclass(frozen=True)
class Task:
    """scikit-learn's digits, 8 x 8 pixels, divided over the sites."""

    images: torch.Tensor
    """Training images of all sites, [N, 64], 0 to 1."""
    labels: torch.Tensor
    """Their classes, [N]."""
    sites: tuple[NDArray[np.intp], ...]
    """Which of them each site holds."""
    test_images: torch.Tensor
    """Images that no site holds, of all classes alike."""
    test_labels: torch.Tensor
    """Their classes."""

    @property
    def samples(self) -> tuple[int, ...]:
        """Number of training images of each site."""
        return tuple(len(site) for site in self.sites)


def make_task(alpha: float, seed: int) -> Task:
    """Divide the digits over the sites: every class by a draw of Dirichlet(alpha) (Hsu et al. 2019, arXiv
    1909.06335). The smaller alpha, the fewer classes a site holds many of.
    """
    random = np.random.default_rng([seed, round(1000 * alpha)])
    images, labels = load_digits(return_X_y=True)
    order = random.permutation(len(labels))
    images, labels = images[order].astype(np.float32) / 16, labels[order].astype(np.int64)
    held_out = int(TEST_SHARE * len(labels))
    sites = _divide(labels[held_out:], alpha, random)
    return Task(
        torch.from_numpy(images[held_out:]),
        torch.from_numpy(labels[held_out:]),
        sites,
        torch.from_numpy(images[:held_out]),
        torch.from_numpy(labels[:held_out]),
    )


def _divide(labels: NDArray[np.int64], alpha: float, random: np.random.Generator) -> tuple[NDArray[np.intp], ...]:
    while True:
        parts: list[list[NDArray[np.intp]]] = [[] for _ in range(SITES)]
        for label in range(CLASSES):
            found = np.flatnonzero(labels == label)
            cuts = np.cumsum(random.dirichlet([alpha] * SITES))[:-1] * len(found)
            for site, part in zip(parts, np.split(found, cuts.astype(int)), strict=True):
                site.append(part)
        sites = tuple(np.concatenate(site) for site in parts)
        if min(map(len, sites)) >= FEWEST_IMAGES:
            return sites


def start_model(seed: int) -> NDArray[np.float32]:
    """Return the values of a model as torch starts it, [n]."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for shape in SHAPES.values():
        bound = 1 / np.sqrt(64 if shape[0] == HIDDEN else HIDDEN)
        pieces.append((torch.rand(int(np.prod(shape)), generator=generator) * 2 - 1) * bound)
    return torch.cat(pieces).numpy()


def train(task: Task, parents: NDArray[np.float32], flipped: Liars, seed: int, number: int) -> Changes:
    """Return what the sites change, [F, K, n]: plain SGD from the parents of F federations, [F, n].

    ``flipped`` sites train on flipped labels. The batches depend on the seed and the round's number only: all
    federations of a seed see the same images.
    """
    random = np.random.default_rng([seed, number])
    start = torch.from_numpy(parents)[:, None, :].repeat(1, SITES, 1)
    values = start.clone().requires_grad_()
    mirrored = torch.from_numpy(flipped)[:, None]
    for _ in range(LOCAL_STEPS):
        chosen = torch.from_numpy(np.stack([site[random.integers(len(site), size=BATCH)] for site in task.sites]))
        labels = task.labels[chosen]
        labels = torch.where(mirrored, CLASSES - 1 - labels, labels).expand(len(parents), -1, -1)
        scores = _scores(values, task.images[chosen])
        losses = functional.cross_entropy(scores.reshape(-1, CLASSES), labels.reshape(-1), reduction="sum") / BATCH
        (slope,) = torch.autograd.grad(losses, values)
        values = (values - LEARNING_RATE * slope).detach().requires_grad_()
    return (values.detach() - start).numpy()


def accuracy(task: Task, models: NDArray[np.float32]) -> list[float]:
    """Return each model's share of the test images whose class it finds. A model that is not finite finds none."""
    scores = _scores(torch.from_numpy(models)[:, None, :], task.test_images[None])[:, 0]
    right = (scores.argmax(dim=-1) == task.test_labels) & scores.isfinite().all(dim=-1)
    return right.double().mean(dim=-1).tolist()


def split(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that lie in a vector of a model."""
    tensors, place = {}, 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        tensors[name] = values[place : place + size].reshape(shape)
        place += size
    return tensors


def join(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the vector of a model's tensors, flat or in shape."""
    return np.concatenate([tensors[name].ravel() for name in SHAPES])


def _scores(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the scores of the classes, [F, K, B, classes], of models [F, K, n] on images [K, B, 64]."""
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    weight, bias, head, head_bias = values.split(sizes, dim=-1)
    hidden = images @ weight.unflatten(-1, SHAPES["hidden.weight"]).mT + bias[..., None, :]
    return torch.relu(hidden) @ head.unflatten(-1, SHAPES["head.weight"]).mT + head_bias[..., None, :]
