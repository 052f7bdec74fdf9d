"""Steps of DP-SGD (Abadi et al. 2016, arXiv 1607.00133): gradients of single images, clipped, summed, noised.

All parameters of the learner take part, also those of a head or decoder that stays at the site: their values steer
the encoder's next steps. The terms of the loss that depend on no image (the proximal term, weight decay) come after
the noise.

The gradients of single images come from torch.func: opacus' hooks see neither the parameters of a Vision Transformer
that belong to no layer (positions, tokens) nor layers that masked image modelling calls one by one (ADR 0012).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from umim.api.privacy import DifferentialPrivacyRecord
from umim.api.round import TrainingSpec
from umim.data.transforms import AugmentationConfig
from umim.errors import ConfigError
from umim.rounds.privacy import Terms
from umim.training.accountant import Mechanism, epsilon, noise_for
from umim.training.batches import Batch, Batches
from umim.training.learner import Learner
from umim.training.runtime import Runtime
from umim.training.secret import Entropy, gaussian, seed

GRADIENT_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""Memory for the gradients of single images that are held at once, by the type of the device."""


def mechanism_of(terms: Terms, training: TrainingSpec, images: int) -> Mechanism:
    """Return the mechanism of a training on so many images: the least noise that the terms allow.

    Raises ConfigError when delta is not below 1 / images, or no noise keeps the target.
    """
    for field, delta in (("spec.training", terms.target_delta), ("spec.privacy", terms.budget_delta)):
        if delta * images >= 1:
            raise ConfigError(
                f"{field}.differentialPrivacy.delta {delta:g} must be below 1 / {images}, the number of training "
                "images: with a larger delta an image may leave whole"
            )
    rate = min(1.0, training.batch_size / images)
    steps = training.epochs * -(-images // training.batch_size)
    noise = terms.least_noise or 0.0
    if terms.target_epsilon is not None:
        noise = max(noise, noise_for(terms.target_epsilon, terms.target_delta, rate, steps))
    return Mechanism(noise, rate, steps)


def record_of(terms: Terms, mechanism: Mechanism, spent: float | None = None) -> DifferentialPrivacyRecord:
    """Return what goes into the update's manifest. ``spent``: of all trainings together, where it may leave."""
    return DifferentialPrivacyRecord(
        noise_multiplier=mechanism.noise_multiplier,
        max_grad_norm=terms.max_grad_norm,
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
        epsilon=epsilon([mechanism], terms.delta),
        delta=terms.delta,
        epsilon_spent=spent,
    )


@dataclass(frozen=True)
class PrivateSteps:
    """Takes the steps of one private training."""

    learner: Learner
    """On the runtime's device."""
    train: Batches
    """Images to learn from."""
    mechanism: Mechanism
    """Noise and sample rate."""
    max_grad_norm: float
    """Largest L2 norm of the gradient of one image."""
    runtime: Runtime
    """Device. All is computed in float32: the gradients of torch.func do not go together with autocast, whose layers
    mix precisions, and float16's loss scaling skips steps by what the gradients are."""
    entropy: Entropy
    """Where samples, noise, augmentation and masks come from. In a hospital nobody can know it: who knows the noise
    subtracts it, and who knows the samples gains more than the accountant counts."""
    begin: Callable[[int], None]
    """Called once before the first step; told how many epochs a checkpoint has, 0 where there is none. May refuse."""

    def step(self, optimiser: torch.optim.Optimizer, augmentation: AugmentationConfig) -> Tensor:
        """Take one step and return the loss: the sum over the sampled images over the expected number of them.

        A step without any image has noise like every other.
        """
        device, expected = self.runtime.device, self.mechanism.sample_rate * self.train.images
        generator = self.runtime.generator(seed(self.entropy))
        torch.manual_seed(seed(self.entropy))  # Swin drops paths by the global generator
        named = {name: value for name, value in self.learner.named_parameters() if value.requires_grad}
        sums = {name: torch.zeros_like(value) for name, value in named.items()}
        total = torch.zeros((), device=device)
        for batch in self.train.drawn(
            self.mechanism.sample_rate, self._images_at_once(named), self.entropy, augmentation, generator
        ):
            gradients, losses_B = self._of_images(named, batch, self.learner.draw(len(batch[0]), generator))
            factors_B = clip_factors(gradients, self.max_grad_norm)
            for name, gradient in gradients.items():
                sums[name] += torch.tensordot(factors_B, gradient, dims=([0], [0]))
            total += losses_B.sum()
        deviation = self.mechanism.noise_multiplier * self.max_grad_norm
        for name, parameter in named.items():
            noised = sums[name].double() + gaussian(parameter.shape, deviation, self.entropy, device)
            parameter.grad = (noised / expected).to(parameter.dtype)
        self.learner.pull()
        optimiser.step()
        return total / expected

    def _of_images(
        self, named: Mapping[str, Tensor], batch: Batch, noise_BL: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gradient of each image, (B, ...) a parameter in float32, and the losses (B,)."""
        images_BCHW, targets = batch

        def loss(parameters: dict[str, Tensor], one: Tensor, target: Tensor | None, noise: Tensor | None) -> Tensor:
            inputs = (one[None], None if target is None else target[None], None if noise is None else noise[None])
            value: Tensor = functional_call(self.learner, parameters, inputs)
            return value

        dims = (None, 0, None if targets is None else 0, None if noise_BL is None else 0)
        each = vmap(grad_and_value(loss), in_dims=dims, randomness="different")
        detached = {name: value.detach() for name, value in named.items()}
        with sdpa_kernel(SDPBackend.MATH):  # vmap has no batching rule for the fused kernels
            gradients, losses_B = each(detached, images_BCHW, targets, noise_BL)
        return {name: value.float() for name, value in gradients.items()}, losses_B.detach().float()

    def _images_at_once(self, named: Mapping[str, Tensor]) -> int:
        size = sum(value.numel() * 4 for value in named.values())
        return max(1, GRADIENT_BYTES[self.runtime.device.type] // size)


def clip_factors(gradients: Mapping[str, Tensor], max_norm: float) -> Tensor:
    """Return (B,) factors <= 1 that bring the L2 norm of each image's gradient, over all parameters, to ``max_norm``.

    ``gradients`` are (B, ...) a parameter.
    """
    squares = [value.flatten(1).double().square().sum(dim=1) for value in gradients.values()]
    norms_B = torch.stack(squares).sum(dim=0).sqrt()
    return (max_norm / norms_B.clamp_min(1e-12)).clamp_max(1.0).float()
