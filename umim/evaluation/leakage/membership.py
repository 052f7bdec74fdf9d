"""Membership inference: can one tell from an update whether an image was trained on?

The attacker knows the parent, the round and what the hospital does to its updates, and trains models of the same kind
on images like the hospital's. The head, which stays at the site unless it is shared, is given to the attacker: the
result is an upper bound for an update without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from umim.api.base import ModelReference
from umim.api.jobs import DatasetLocation, SiteJobConfig
from umim.data.dataset import ImageDataset
from umim.data.transforms import normalise, to_unit
from umim.evaluation.leakage.defences import Defence
from umim.evaluation.leakage.scores import LOW_FALSE_POSITIVES, auroc, calibrated, curve, logit, true_positives
from umim.evaluation.leakage.sides import twin_of
from umim.evaluation.statistics import Interval, mean_interval
from umim.models.encoder import Encoder
from umim.models.heads import AnyHead, ClassificationHead, MultilabelHead, create_head
from umim.models.mim import MimModel
from umim.models.state import ModelState
from umim.training.privacy import protect
from umim.training.runtime import Runtime
from umim.training.seeds import derive
from umim.training.site import Surroundings, Trained, load_module, loaded_encoder, loaded_mim, train_at_site

ATTACKS = ("loss", "calibrated")
"""loss: the smaller its loss, the likelier a member (Yeom et al. 2018, arXiv 1709.01604). calibrated: how much larger
the confidence is than in models trained without the image (LiRA, offline; Carlini et al. 2022, arXiv 2112.03570)."""
MASKS = 8
"""Masks over which the loss of masked image modelling is averaged. The same for every image and model."""
BATCH_SIZE = 64

Told = Callable[[str], None]
"""Told what has just been done."""


@dataclass(frozen=True)
class Site:
    """What is trained, and from what."""

    architecture: str
    """timm name of the encoder."""
    parent: ModelState
    """The model that the round starts from."""
    dataset: ImageDataset
    """The hospital's images, at the encoder's size."""
    seed: int
    """Seed of everything that the training's own seed does not decide."""

    @property
    def image_size(self) -> int:
        """Side of the encoder's input in pixels."""
        return int(self.dataset.images.shape[-1])


@dataclass(frozen=True)
class Estimate:
    """A figure measured once a model."""

    values: Sequence[float]
    """One a model."""

    @property
    def mean(self) -> float:
        """Mean over models."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> Interval | None:
        """Student's interval of the mean over models, cut to [0, 1]. They share images, so it is a rough one."""
        found = mean_interval(self.values)
        return None if found is None else Interval(max(0.0, found.low), min(1.0, found.high))


@dataclass(frozen=True)
class Membership:
    """One attack on the updates of one defence."""

    defence: str
    """Name of the defence."""
    attack: str
    """loss or calibrated."""
    auroc: Estimate
    """0.5 is guessing."""
    true_positives: Estimate
    """At 1 % false positives. 0.01 is guessing."""
    curve: Sequence[float]
    """Mean true positives at the rates of ``scores.GRID``."""


@dataclass(frozen=True)
class Usefulness:
    """What the updates of one defence are worth and how large they are."""

    defence: str
    """Name of the defence."""
    score_name: str | None
    """accuracy or dice. None: masked image modelling has none."""
    score: Estimate | None
    """On images that the model was not trained on, by the encoder that leaves and the site's head."""
    trained_norm: Estimate
    """L2 norm of the update before the defence. Not within [0, 1]: its interval means nothing."""
    released_norm: Estimate
    """L2 norm of what leaves."""
    epsilon: Estimate | None
    """What DP-SGD spent, at the delta of its terms. None: it was not used."""


def infer_membership(
    site: Site,
    defences: Sequence[Defence],
    members_KN: NDArray[np.bool_],
    work: Path,
    around: Surroundings,
    told: Told = lambda _: None,
) -> tuple[list[Membership], list[Usefulness]]:
    """Train a site round on each half, release its update by each defence, and attack it.

    ``members_KN`` are the halves, see ``sides.draw_sides``; ``work`` is an empty folder for checkpoints. Each model is
    the target once, with the others as shadows. Raises the errors of ``train_at_site``.
    """
    trainings: dict[str, list[Trained]] = {}
    attacks: list[Membership] = []
    useful: list[Usefulness] = []
    for defence in defences:
        key = defence.training.model_dump_json()
        if key not in trainings:
            trainings[key] = []
            for model, members_N in enumerate(members_KN):
                trainings[key].append(_train(site, defence, members_N, work / f"{defence.name}-{model}", around))
                told(f"trained on {int(members_N.sum())} images")
        released = [
            Release.of(site, defence, trained, members_N, number, around.runtime)
            for number, (trained, members_N) in enumerate(zip(trainings[key], members_KN, strict=True))
        ]
        attacks += _attacks(defence, released, members_KN)
        useful.append(_usefulness(defence, released, members_KN))
        told(f"membership: {defence.name}")
    return attacks, useful


def trainings_of(defences: Sequence[Defence]) -> int:
    """Return how many trainings a model needs: defences that train alike share theirs."""
    return len({defence.training.model_dump_json() for defence in defences})


@dataclass(frozen=True)
class Release:
    """What one update says about each image."""

    losses: NDArray[np.float64]
    """(N,) losses of the model that leaves."""
    confidences: NDArray[np.float64]
    """(N,) nearly normal over models, larger for members."""
    scores: NDArray[np.float64] | None
    """(N,) in [0, 1], how well the model does. None without a head."""
    score_name: str | None
    """Name of the score."""
    trained_norm: float
    """L2 norm of the update before the defence."""
    released_norm: float
    """L2 norm of what leaves."""
    epsilon: float | None
    """What DP-SGD spent. None: it was not used."""

    @classmethod
    def of(
        cls,
        site: Site,
        defence: Defence,
        trained: Trained,
        members_N: NDArray[np.bool_],
        number: int,
        runtime: Runtime,
    ) -> Release:
        """Release a training's update and look at all images with it. The noise comes from the audit's seed."""
        noise = np.random.default_rng(derive(site.seed, "noise", defence.name, number)).bytes
        tensors = protect(trained.state.encoder, site.parent.encoder, defence.privacy, noise)
        encoder = loaded_encoder(site.architecture, site.image_size, tensors).to(runtime.device).eval()
        spent = trained.differential_privacy
        epsilon = None if spent is None else spent.epsilon
        trained_norm, released_norm = (distance(one, site.parent.encoder) for one in (trained.state.encoder, tensors))
        if not trained.state.heads:
            mim = loaded_mim(encoder, trained.state.mim, defence.training.mask_ratio, 0).to(runtime.device).eval()
            losses = _mim_losses(encoder, mim, site.dataset, site.seed, runtime)
            return cls(losses, -losses, None, None, trained_norm, released_norm, epsilon)
        (found,) = trained.state.heads.values()
        assert site.dataset.targets is not None  # there is a head
        head = create_head(site.dataset.task, encoder, torch.from_numpy(site.dataset.targets[members_N]), 0)
        load_module(head, found, "head")
        losses, scores = _head_losses(encoder, head.to(runtime.device).eval(), site.dataset, runtime)
        confidences = logit(losses) if site.dataset.task == "classification" else -losses
        return cls(losses, confidences, scores, head.score_name, trained_norm, released_norm, epsilon)


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of the difference over all floating-point tensors."""
    names = [name for name, value in second.items() if value.is_floating_point()]
    square = sum(float((first[name].double() - second[name].double()).square().sum()) for name in names)
    return float(square**0.5)


def per_image_loss(head: AnyHead, output: Tensor, targets_B: Tensor) -> Tensor:
    """Return the loss of each image (B,), without the weights against imbalance: they tell classes apart."""
    if isinstance(head, ClassificationHead):
        return functional.cross_entropy(output.float(), targets_B, reduction="none")
    if isinstance(head, MultilabelHead):
        each = functional.binary_cross_entropy_with_logits(output.float(), targets_B.float(), reduction="none")
        return each.mean(dim=1)
    return torch.stack([head.loss(output[[one]], targets_B[[one]]) for one in range(len(output))])


def _train(site: Site, defence: Defence, members_N: NDArray[np.bool_], work: Path, around: Surroundings) -> Trained:
    config = SiteJobConfig(
        round_namespace="audit",
        round_name="audit",
        round_uid="audit",
        attempt=1,
        architecture=site.architecture,
        image_size=site.image_size,
        site="audit",
        parent=ModelReference(name="parent", digest="0" * 64),
        training=defence.training,
        data=DatasetLocation(path="", format="npz", task=site.dataset.task, task_name=None),
        work_path=str(work),
        privacy=defence.privacy,
    )
    # Nothing leaves an audit, so the randomness of DP-SGD may follow from its seed: the audit can be repeated.
    entropy = np.random.default_rng(derive(site.seed, "entropy", work.name)).bytes
    around = replace(around, entropy=entropy)
    return train_at_site(config, site.parent, replace(site.dataset, validation=~members_N), around)


def _head_losses(
    encoder: Encoder, head: AnyHead, dataset: ImageDataset, runtime: Runtime
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    losses, scores = [], []
    assert dataset.targets is not None  # there is a head
    with torch.inference_mode(), runtime.autocast():
        for first in range(0, len(dataset), BATCH_SIZE):
            part = slice(first, first + BATCH_SIZE)
            images = to_unit(torch.from_numpy(dataset.images[part]).to(runtime.device))
            targets = torch.from_numpy(dataset.targets[part]).to(runtime.device)
            output = head(encoder(normalise(images)))
            losses.append(per_image_loss(head, output, targets).double().cpu().numpy())
            scores.append(head.scores(output, targets).double().cpu().numpy())
    return np.concatenate(losses), np.concatenate(scores)


def _mim_losses(
    encoder: Encoder, mim: MimModel, dataset: ImageDataset, seed: int, runtime: Runtime
) -> NDArray[np.float64]:
    losses = []
    with torch.inference_mode(), runtime.autocast():
        for image in dataset.images:
            copies = to_unit(torch.from_numpy(image).to(runtime.device)).expand(MASKS, -1, -1, -1)
            generator = runtime.generator(derive(seed, "masks"))
            losses.append(float(mim.loss(encoder, normalise(copies), generator)))
    return np.asarray(losses, dtype=np.float64)


def _attacks(defence: Defence, released: Sequence[Release], members_KN: NDArray[np.bool_]) -> list[Membership]:
    confidences_KN = np.stack([one.confidences for one in released])
    scores = {
        "loss": [-one.losses for one in released],
        "calibrated": [calibrated(confidences_KN, members_KN, model, twin_of(model)) for model in range(len(released))],
    }
    return [_judged(defence.name, attack, scores[attack], members_KN) for attack in ATTACKS]


def _judged(
    defence: str, attack: str, scores: Sequence[NDArray[np.float64]], members_KN: NDArray[np.bool_]
) -> Membership:
    pairs = list(zip(scores, members_KN, strict=True))
    return Membership(
        defence,
        attack,
        Estimate([auroc(*pair) for pair in pairs]),
        Estimate([true_positives(*pair, LOW_FALSE_POSITIVES) for pair in pairs]),
        [float(value) for value in np.mean([curve(*pair) for pair in pairs], axis=0)],
    )


def _usefulness(defence: Defence, released: Sequence[Release], members_KN: NDArray[np.bool_]) -> Usefulness:
    scores = [
        float(one.scores[~members_N].mean())
        for one, members_N in zip(released, members_KN, strict=True)
        if one.scores is not None
    ]
    spent = [one.epsilon for one in released if one.epsilon is not None]
    return Usefulness(
        defence.name,
        released[0].score_name,
        Estimate(scores) if scores else None,
        Estimate([one.trained_norm for one in released]),
        Estimate([one.released_norm for one in released]),
        Estimate(spent) if spent else None,
    )
