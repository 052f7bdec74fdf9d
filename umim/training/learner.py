"""What is optimised: the encoder with its private head and MIM part, and the loss over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from umim.data.transforms import normalise
from umim.models.encoder import Encoder
from umim.models.heads import AnyHead
from umim.models.mim import MimModel


class Objective(nn.Module, ABC):
    """What the training loop trains: parameters and a loss over batches."""

    score_name: str | None = None
    """Name of the score that ``measure`` returns. None: there is only a loss."""

    @abstractmethod
    def loss(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the loss that training minimises. Images are float32 in [0, 1] with 1 or 3 channels."""

    @abstractmethod
    def measure(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return (2,): the validation loss, and the sum over images of the score (0 without one)."""


class Learner(Objective):
    """loss = supervised + mim_weight * mim + proximal_mu / 2 * ||w - w_parent||^2, each term where configured.

    With a head the supervised term has weight 1; without one, masked image modelling alone has weight 1.
    """

    def __init__(self, encoder: Encoder, head: AnyHead | None, mim: MimModel | None, mim_weight: float = 1.0) -> None:
        super().__init__()
        if head is None and mim is None:
            raise ValueError("a learner needs a head, a MIM part, or both")
        self.encoder = encoder
        self.head = head
        self.score_name = head.score_name if head is not None else None
        self.mim = mim
        self.mim_weight = mim_weight if head is not None else 1.0
        self._anchors: list[tuple[Tensor, Tensor]] = []
        self._half_mu = 0.0

    def anchor(self, parent: Mapping[str, Tensor], mu: float) -> None:
        """Pull the encoder's parameters towards the parent's (FedProx, arXiv 1812.06127). mu = 0: not at all.

        Call it when the learner is on its device. ``parent`` is named as the encoder's net.
        """
        self._half_mu = mu / 2
        named = self.encoder.net.named_parameters()
        self._anchors = [(own, parent[name].to(own.device)) for name, own in named] if mu > 0 else []

    def loss(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the loss that training minimises. Images are float32 in [0, 1] with 1 or 3 channels."""
        terms = self._terms(images_BCHW, targets, self.draw(len(images_BCHW), generator))
        if self._anchors:
            distances = [(own - parent).square().sum() for own, parent in self._anchors]
            terms.append(self._half_mu * torch.stack(distances).sum())
        return torch.stack(terms).sum()

    def draw(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Return the random numbers for the masks of so many images, or None without a MIM part."""
        return None if self.mim is None else self.mim.draw(count, generator)

    def forward(self, images_BCHW: Tensor, targets: Tensor | None, noise_BL: Tensor | None) -> Tensor:
        """Return the part of the loss that depends on images, with masks from ``draw``: all but the proximal term."""
        return torch.stack(self._terms(images_BCHW, targets, noise_BL)).sum()

    def pull(self) -> None:
        """Add the gradient of the proximal term, mu * (w - w_parent), to the parameters' gradients."""
        for own, parent in self._anchors:
            assert own.grad is not None  # whoever calls this has set them
            own.grad.add_(own.detach() - parent, alpha=2 * self._half_mu)

    def _terms(self, images_BCHW: Tensor, targets: Tensor | None, noise_BL: Tensor | None) -> list[Tensor]:
        inputs = normalise(images_BCHW)
        terms: list[Tensor] = []
        if self.head is not None and targets is not None:
            terms.append(self.head.loss(self.head(self.encoder(inputs)), targets))
        if self.mim is not None and noise_BL is not None:
            terms.append(self.mim_weight * self.mim.masked_loss(self.encoder, inputs, noise_BL))
        return terms

    def measure(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return (2,): the validation loss and the sum over images of the head's score (0 without a head).

        The loss is the supervised one, or the MIM loss where there is no head.
        """
        inputs = normalise(images_BCHW)
        if self.head is None or targets is None:
            assert self.mim is not None  # by construction
            loss = self.mim.loss(self.encoder, inputs, generator)
            return torch.stack([loss, torch.zeros_like(loss)])
        output = self.head(self.encoder(inputs))
        return torch.stack([self.head.loss(output, targets), self.head.scores(output, targets).sum()])
