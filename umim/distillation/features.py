"""Multi-teacher feature distillation: one encoder learns the features of several, on images without labels.

Form of FitNets (Romero et al. 2015, arXiv 1412.6550) with several teachers, as AM-RADIO (arXiv 2312.06709) has them;
the weight of a teacher on an image by how much the hospital changed it (``novelty``) is this project's own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from umim.data.transforms import normalise
from umim.models.encoder import Encoder
from umim.models.mim import MimModel
from umim.training.learner import Objective


@dataclass(frozen=True)
class FeatureOptions:
    """Options of the strategy ``features``."""

    novelty: float = 0.0
    """Exponent of the weight by novelty: 0 weighs all teachers alike, 1 by how far a teacher's features of the image
    lie from the parent's, relative to the other teachers."""
    projectors: float = 0.0
    """1: a linear map, initially the identity, lies between the student's features and each teacher's, so that
    features on which teachers disagree need not be averaged. 0: none."""
    teachers: float = 16.0
    """Most teachers, those with the most samples: all are in memory at once."""
    anchor: float = 0.0
    """Weight of the parent as one more teacher, relative to all hospitals together: keeps what it knew."""
    tint: float = 0.0
    """Largest relative change of each colour channel of the server's images: hospitals may have colour where the
    server has none."""


class FeatureDistiller(Objective):
    """loss = sum_k w_k(x) * distance(student(x), teacher_k(x)) + mim_weight * mim(x).

    The distance is the mean squared difference of the feature maps after standardising each position over channels.
    """

    def __init__(
        self,
        student: Encoder,
        mim: MimModel | None,
        teachers: Sequence[Encoder],
        parent: Encoder | None,
        shares_K: Sequence[float],
        mim_weight: float,
        options: FeatureOptions,
    ) -> None:
        """``shares_K`` are the teachers' weights, with sum 1; ``parent`` is needed for novelty and anchor."""
        super().__init__()
        self.encoder = student
        self.mim = mim if mim_weight > 0 else None
        self.mim_weight = mim_weight
        self.options = options
        if parent is not None and options.anchor > 0:
            teachers = [*teachers, parent]
            shares_K = [*(share / (1 + options.anchor) for share in shares_K), options.anchor / (1 + options.anchor)]
        # Plain lists: teachers and parent are not trained, belong into no checkpoint and stay in evaluation mode.
        self._teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self._parents = [parent.eval().requires_grad_(False)] if parent is not None and options.novelty > 0 else []
        self._shares_K = torch.tensor(list(shares_K), device=next(student.parameters()).device)
        self.projectors = nn.ModuleList(_identity(student.width) for _ in teachers) if options.projectors else None

    def loss(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See the class. ``targets`` are ignored."""
        inputs = normalise(_tinted(images_BCHW, self.options.tint, generator))
        student_BLD = _tokens(self.encoder(inputs))
        with torch.no_grad():
            wanted_KBLD = torch.stack([_standard(_tokens(teacher(inputs))) for teacher in self._teachers])
            weights_KB = self._weights(inputs, wanted_KBLD)
        distances = [
            (_standard(self._projected(student_BLD, number)) - wanted_BLD).square().mean(dim=(1, 2))
            for number, wanted_BLD in enumerate(wanted_KBLD)
        ]
        loss = (torch.stack(distances) * weights_KB).sum(dim=0).mean()
        if self.mim is not None:
            loss = loss + self.mim_weight * self.mim.loss(self.encoder, inputs, generator)
        return loss

    def measure(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the loss, and 0 for the score that there is not."""
        loss = self.loss(images_BCHW, targets, generator)
        return torch.stack([loss, torch.zeros_like(loss)])

    def _projected(self, tokens_BLD: Tensor, number: int) -> Tensor:
        if self.projectors is None:
            return tokens_BLD
        projected: Tensor = self.projectors[number](tokens_BLD)
        return projected

    def _weights(self, inputs: Tensor, wanted_KBLD: Tensor) -> Tensor:
        """Return each teacher's weight for each image (K, B); they sum to 1 over the teachers."""
        weights_KB = self._shares_K[:, None].expand(-1, wanted_KBLD.shape[1])
        for parent in self._parents:
            before_BLD = _standard(_tokens(parent(inputs)))
            changes_KB = (wanted_KBLD - before_BLD).square().mean(dim=(2, 3))
            weights_KB = weights_KB * changes_KB.clamp_min(1e-12) ** self.options.novelty
        return weights_KB / weights_KB.sum(dim=0)


def _tokens(map_BDHW: Tensor) -> Tensor:
    return map_BDHW.flatten(2).transpose(1, 2)


def _standard(tokens_BLD: Tensor) -> Tensor:
    """Return every position with mean 0 and variance 1 over its channels, in float32."""
    return functional.layer_norm(tokens_BLD.float(), tokens_BLD.shape[-1:])


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _tinted(images_BCHW: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply each channel of each image by a factor of its own; grey images become coloured. Stays in [0, 1]."""
    if strength == 0:
        return images_BCHW
    draw_B3 = torch.rand((len(images_BCHW), 3, 1, 1), generator=generator, device=images_BCHW.device)
    return (images_BCHW * (1 + strength * (2 * draw_B3 - 1))).clamp(0, 1)
