"""Gradient inversion: can one draw the images from an update?

The worst case of a round: one image or four, one step or a few, no augmentation. The attacker knows the parent, the
labels, the head that the site starts from (it follows from the round's seed), and what the hospital does to updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from umim.api.hospital import PrivacySpec
from umim.api.round import TrainingSpec
from umim.data.transforms import MEAN, STD, AugmentationConfig, to_unit
from umim.evaluation.leakage.defences import Defence
from umim.evaluation.leakage.membership import Site, Told
from umim.evaluation.leakage.similarity import assign, nearest, psnr, ssim
from umim.models.heads import create_head
from umim.models.state import Tensors
from umim.rounds.privacy import private_terms
from umim.training.accountant import Mechanism
from umim.training.batches import Batches
from umim.training.dp import PrivateSteps, mechanism_of
from umim.training.learner import Learner
from umim.training.optimiser import create_optimiser, descend
from umim.training.privacy import protect
from umim.training.runtime import Runtime
from umim.training.secret import Entropy
from umim.training.seeds import derive
from umim.training.site import encoder_tensors, loaded_encoder, loaded_mim

Optimiser = Literal["gradient", "adamw"]

AS_THEY_ARE = AugmentationConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
POOL = 100
"""Images among which a reconstruction has to be recognised, the true ones with them."""


@dataclass(frozen=True)
class Scenario:
    """What an update is made of."""

    images: int
    """Images behind it, all of them in every step."""
    steps: int
    """Steps of the site."""
    optimiser: Optimiser
    """gradient: one plain step against the gradient, the most that can be told of it. adamw: as sites train."""

    @property
    def name(self) -> str:
        """In tables."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        if self.optimiser == "gradient":
            return f"{images}, plain gradient"
        return f"{images}, {self.steps} step{'' if self.steps == 1 else 's'} of AdamW"


SCENARIOS = (
    Scenario(1, 1, "gradient"),
    Scenario(4, 1, "gradient"),
    Scenario(1, 1, "adamw"),
    Scenario(4, 4, "adamw"),
)


@dataclass(frozen=True)
class PrivateNoise:
    """DP-SGD of a site's round, for the steps of small updates."""

    mechanism: Mechanism
    """Of a round on half of the images, as those of membership inference."""
    max_grad_norm: float
    """L2 norm to which the gradient of each image is clipped."""

    @classmethod
    def of(cls, defence: Defence, images: int) -> PrivateNoise | None:
        """Return what the defence's training adds on so many images, or None where it is not private."""
        terms = private_terms(defence.training, defence.privacy)
        if terms is None:
            return None
        return cls(mechanism_of(terms, defence.training, images), terms.max_grad_norm)

    def deviation(self, scenario: Scenario, training: TrainingSpec) -> float:
        """Return about the standard deviation of the noise on each value of a small update.

        AdamW turns a gradient that is mostly noise into steps of about the learning rate.
        """
        if scenario.optimiser == "adamw":
            return training.learning_rate * math.sqrt(scenario.steps)
        return self.mechanism.noise_multiplier * self.max_grad_norm / scenario.images


@dataclass(frozen=True)
class Inversion:
    """How hard the attacker tries."""

    trials: int = 20
    """Updates of each scenario, of other images each."""
    searches: int = 3
    """The first of them are attacked by matching, too, which costs far more than the closed form."""
    iterations: int = 50
    """Steps of gradient matching."""
    step: float = 0.1
    """Of Adam on the pixels, a tenth of it after 3/8, 5/8 and 7/8 of the steps (Geiping et al. 2020)."""
    total_variation: float = 0.01
    """Weight of the total variation."""


@dataclass(frozen=True)
class Victim:
    """What the attacker knows of a site's steps: all but the images."""

    learner: Learner
    """The site's model before its first step, in evaluation mode: nothing in it is random."""
    targets: Tensor | None
    """Labels of the images."""
    channels: int
    """1 for grey images, 3 for colour."""
    images: int
    """How many there are."""
    noise: float
    """Standard deviation of the noise on each value of the update."""
    runtime: Runtime
    """Device."""
    seed: int
    """Of masks, and of the attack."""

    def gradient(self, images_BCHW: Tensor, *, differentiable: bool = False) -> list[Tensor]:
        """Return the gradient of the site's loss over the encoder's parameters."""
        loss = self.learner.loss(images_BCHW, self.targets, self.runtime.generator(self.seed))
        return list(torch.autograd.grad(loss, self.parameters(), create_graph=differentiable, materialize_grads=True))

    def parameters(self) -> list[Tensor]:
        """Return the encoder's parameters."""
        return list(self.learner.encoder.net.parameters())

    def named(self, change: Tensors) -> list[Tensor]:
        """Return a change as a list in the order of ``parameters``."""
        return [change[name] for name, _ in self.learner.encoder.net.named_parameters()]


@dataclass(frozen=True)
class Reconstruction:
    """One attack on the updates of one scenario and defence. Means over the images of its trials."""

    scenario: str
    """Name of the scenario."""
    defence: str
    """Name of the defence. "baseline": no update is used."""
    attack: str
    """closed-form or matching; mean image or another image for the baselines."""
    psnr: float
    """In dB."""
    ssim: float
    """1 is exact."""
    identified: float
    """Share of the reconstructions whose nearest neighbour among the pool is the true image."""
    images: int
    """Images behind the figures."""
    example: NDArray[np.float64]
    """(C, S, S), the reconstruction of the first image of the first trial."""


@dataclass(frozen=True)
class Gallery:
    """All reconstructions, and what they are measured against."""

    rows: Sequence[Reconstruction]
    """Baselines and attacks."""
    originals: Mapping[str, NDArray[np.float64]]
    """By scenario: the first image of its first trial (C, S, S)."""
    pool: int
    """Images among which a reconstruction had to be recognised. Guessing is 1 / pool."""


def invert(
    site: Site,
    defences: Sequence[Defence],
    inversion: Inversion,
    runtime: Runtime,
    told: Told = lambda _: None,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> Gallery:
    """Make small updates of the site's images, release them by each defence, and draw the images from them."""
    rows: list[Reconstruction] = []
    originals: dict[str, NDArray[np.float64]] = {}
    images_N = site.dataset.images / 255.0
    pool = min(POOL, len(images_N))
    for scenario in scenarios:
        drawn = [_draw(len(images_N), scenario, trial, pool, site.seed) for trial in range(inversion.trials)]
        originals[scenario.name] = images_N[drawn[0][0]]
        rows += _baselines(images_N, scenario, drawn)
        for defence in defences:
            found = _attack(site, defence, scenario, drawn, inversion, runtime)
            rows += [
                _row(scenario, defence.name, attack, images_N, drawn, guesses) for attack, guesses in found.items()
            ]
            told(f"inversion: {scenario.name}, {defence.name}")
    return Gallery(rows, originals, pool)


def closed_form(victim: Victim, change: Tensors) -> Tensor | None:
    """Return what the gradients of patches and positions say of the image (1, C, S, S), without any search.

    For one image G^T X = W, with G the gradient of the positions (L, D), W that of the patch embedding (D, P) and X
    the patches: a linear system (APRIL, Lu et al. 2022, arXiv 2112.14087). It is solved with a ridge of the noise's
    variance. For several images it is some mixture of them. None for encoders without learned positions.
    """
    encoder = victim.learner.encoder
    if not encoder.is_vit or "pos_embed" not in change or "patch_embed.proj.weight" not in change:
        return None
    side, patch = encoder.image_size // encoder.patch, encoder.patch
    positions_LD = change["pos_embed"][0, -(side * side) :].double()
    weights_DCP = change["patch_embed.proj.weight"].double().flatten(2)
    if victim.channels == 1:
        weights_DCP = weights_DCP.mean(dim=1, keepdim=True)  # a grey image is repeated: the gradients are equal
    square_LL = positions_LD @ positions_LD.T
    ridge = max(victim.noise**2, float(torch.linalg.matrix_norm(square_LL, 2)) * 1e-12)
    system_LL = square_LL + ridge * torch.eye(len(square_LL), dtype=torch.float64)
    patches_LCP = torch.linalg.solve(system_LL, positions_LD @ weights_DCP.flatten(1)).unflatten(1, (-1, patch**2))
    grid = patches_LCP.reshape(side, side, -1, patch, patch).permute(2, 0, 3, 1, 4)
    image_CSS = grid.reshape(-1, side * patch, side * patch)
    solved: Tensor = (image_CSS * STD + MEAN).nan_to_num(0.5).clamp(0, 1)[None].float()
    return solved


def matching(victim: Victim, change: Tensors, inversion: Inversion) -> Tensor:
    """Return images (B, C, S, S) whose gradient points where the update does (Geiping et al. 2020, arXiv 2003.14053).

    Loss: 1 - cosine over all encoder parameters, plus total variation; Adam on the pixels by the gradient's sign. It
    starts from ``closed_form`` where there is one, with a little noise that parts the images, else from grey.
    """
    device, size = victim.runtime.device, victim.learner.encoder.image_size
    target = [(-value).to(device) for value in victim.named(change)]
    begin = closed_form(victim, change)
    shape = (victim.images, victim.channels, size, size)
    generator = victim.runtime.generator(derive(victim.seed, "attack"))
    start = torch.full(shape, 0.5, device=device) if begin is None else begin.to(device).expand(shape)
    spread = 0.0 if begin is not None and victim.images == 1 else 0.05
    images = (start + spread * torch.randn(shape, generator=generator, device=device)).clamp(0, 1).requires_grad_()
    optimiser = torch.optim.Adam([images], lr=inversion.step)
    milestones = [int(inversion.iterations * part) for part in (3 / 8, 5 / 8, 7 / 8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.1)
    best, least = images.detach().clone(), float("inf")
    for _ in range(inversion.iterations):
        loss = cosine_distance(victim.gradient(images, differentiable=True), target)
        total = loss + inversion.total_variation * total_variation(images)
        if float(total.detach()) < least:
            best, least = images.detach().clone(), float(total.detach())
        (found,) = torch.autograd.grad(total, [images])
        images.grad = found.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return best.cpu()


def cosine_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return 1 - cosine of two lists of tensors, each taken as one vector."""
    product = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    norms = [torch.stack([one.square().sum() for one in side]).sum().sqrt() for side in (first, second)]
    return 1 - product / (norms[0] * norms[1]).clamp_min(1e-20)


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels, down and across together."""
    down = (images_BCHW[:, :, 1:] - images_BCHW[:, :, :-1]).abs().mean()
    across = (images_BCHW[:, :, :, 1:] - images_BCHW[:, :, :, :-1]).abs().mean()
    return down + across


def small_update(victim: Victim, images_BCHW: Tensor, scenario: Scenario, training: TrainingSpec) -> Tensors:
    """Return the encoder after the site's steps on a few images. The victim's learner stays as it is.

    gradient: the parent less the gradient, whose norm over the encoder is cut to gradientClipNorm as in a step of
    training. adamw: steps at the peak learning rate, since the whole round is a few steps long.
    """
    if scenario.optimiser == "gradient":
        gradient = victim.gradient(images_BCHW)
        norm = float(torch.stack([one.square().sum() for one in gradient]).sum().sqrt())
        scale = min(1.0, training.gradient_clip_norm / max(norm, 1e-20))
        tensors = encoder_tensors(victim.learner.encoder)
        for (name, _), one in zip(victim.learner.encoder.net.named_parameters(), gradient, strict=True):
            tensors[name] = tensors[name] - scale * one.cpu()
        return tensors
    learner = deepcopy(victim.learner)
    optimiser = create_optimiser(learner, training)
    for _ in range(scenario.steps):
        loss = learner.loss(images_BCHW, victim.targets, victim.runtime.generator(victim.seed))
        descend(loss, learner.parameters(), optimiser, victim.runtime.scaler(), training.gradient_clip_norm)
    return encoder_tensors(learner.encoder)


def private_update(
    learner: Learner,
    images: Batches,
    scenario: Scenario,
    training: TrainingSpec,
    private: PrivateNoise,
    entropy: Entropy,
    runtime: Runtime,
) -> Tensors:
    """Return the encoder after the site's steps of DP-SGD on a few images, all of them in every step.

    Scenarios are those of ``small_update``. The attacker knows that all images take part, which a round's sampling
    hides; masks are the site's secret here.
    """
    learner = deepcopy(learner)
    mechanism = Mechanism(private.mechanism.noise_multiplier, 1.0, scenario.steps)
    steps = PrivateSteps(learner, images, mechanism, private.max_grad_norm, runtime, entropy, lambda _: None)
    plain = scenario.optimiser == "gradient"
    optimiser = torch.optim.SGD(learner.parameters(), lr=1.0) if plain else create_optimiser(learner, training)
    for _ in range(scenario.steps):
        steps.step(optimiser, AS_THEY_ARE)
    return encoder_tensors(learner.encoder)


def _attack(
    site: Site,
    defence: Defence,
    scenario: Scenario,
    drawn: Sequence[NDArray[np.int64]],
    inversion: Inversion,
    runtime: Runtime,
) -> dict[str, list[Tensor]]:
    """Return by attack the reconstructions (B, C, S, S) of the trials, in their order; of matching the first ones."""
    found: dict[str, list[Tensor]] = {}
    learner = _learner(site, defence.training, runtime)
    private = PrivateNoise.of(defence, len(site.dataset) // 2)
    for trial, numbers in enumerate(drawn):
        chosen = numbers[: scenario.images]
        seed = derive(site.seed, "inversion", scenario.name, trial)
        victim = _victim(site, learner, chosen, defence.privacy, runtime, seed)
        noise = np.random.default_rng(derive(seed, "noise")).bytes
        # Only this form of attention has the second derivative that matching needs.
        with sdpa_kernel(SDPBackend.MATH):
            if private is None:
                images = to_unit(torch.from_numpy(site.dataset.images[chosen])).to(runtime.device)
                trained = small_update(victim, images, scenario, defence.training)
            else:
                batch = Batches(site.dataset, chosen, len(chosen), runtime.device)
                trained = private_update(learner, batch, scenario, defence.training, private, noise, runtime)
                victim = replace(victim, noise=private.deviation(scenario, defence.training))
            released = protect(trained, site.parent.encoder, defence.privacy, noise)
            change = {name: released[name].float() - site.parent.encoder[name].float() for name in released}
            solved = closed_form(victim, change)
            if solved is not None:
                found.setdefault("closed-form", []).append(solved.expand(scenario.images, -1, -1, -1))
            if trial < inversion.searches:
                found.setdefault("matching", []).append(matching(victim, change, inversion))
    return found


def _learner(site: Site, training: TrainingSpec, runtime: Runtime) -> Learner:
    """Return the site's model before its first step."""
    encoder = loaded_encoder(site.architecture, site.image_size, site.parent.encoder)
    head = None
    if training.objective != "mim":
        assert site.dataset.targets is not None  # checked by the audit
        targets = torch.from_numpy(site.dataset.targets)
        head = create_head(site.dataset.task, encoder, targets, derive(training.seed, "head"))
    wants_mim = training.objective != "supervised"
    mim = loaded_mim(encoder, site.parent.mim, training.mask_ratio, training.seed) if wants_mim else None
    learner = Learner(encoder, head, mim, training.mim_weight).to(runtime.device)
    learner.eval()
    return learner


def _victim(
    site: Site, learner: Learner, chosen: NDArray[np.int64], privacy: PrivacySpec, runtime: Runtime, seed: int
) -> Victim:
    targets = None
    if site.dataset.targets is not None:
        targets = torch.from_numpy(site.dataset.targets[chosen]).to(runtime.device)
    noise = privacy.noise_multiplier * (privacy.clip_norm or 0.0)
    return Victim(learner, targets, site.dataset.images.shape[1], len(chosen), noise, runtime, seed)


def _draw(count: int, scenario: Scenario, trial: int, pool: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of ``pool`` different images. The first ones are the update's, the others decoys."""
    random = np.random.Generator(np.random.PCG64(derive(seed, "trial", scenario.name, trial)))
    return random.permutation(count)[:pool].astype(np.int64)


def _baselines(
    images_N: NDArray[np.float64], scenario: Scenario, drawn: Sequence[NDArray[np.int64]]
) -> list[Reconstruction]:
    """Return what is reached without any update: by the mean of the other images, and by one of them."""
    means, others = [], []
    for numbers in drawn:
        decoys = images_N[numbers[scenario.images :]]
        means.append(torch.from_numpy(decoys.mean(axis=0)).expand(scenario.images, -1, -1, -1))
        others.append(torch.from_numpy(decoys[-scenario.images :]))
    return [
        _row(scenario, "baseline", "mean image", images_N, drawn, means),
        _row(scenario, "baseline", "another image", images_N, drawn, others),
    ]


def _row(
    scenario: Scenario,
    defence: str,
    attack: str,
    images_N: NDArray[np.float64],
    drawn: Sequence[NDArray[np.int64]],
    guesses: Sequence[Tensor],
) -> Reconstruction:
    figures = []
    examples = []
    for numbers, guess in zip(drawn, guesses, strict=False):  # fewer are searched than drawn
        truths, found = images_N[numbers[: scenario.images]], guess.double().numpy()
        ordered = found[assign(found, truths)]
        examples.append(ordered[0])
        for number, (image, truth) in enumerate(zip(ordered, truths, strict=True)):
            is_it = nearest(image, images_N[numbers]) == number
            figures.append((psnr(image, truth), ssim(image, truth), float(is_it)))
    decibels, alike, identified = (float(value) for value in np.mean(figures, axis=0))
    return Reconstruction(
        scenario.name, defence, attack, decibels, alike, identified, images=len(figures), example=examples[0]
    )
