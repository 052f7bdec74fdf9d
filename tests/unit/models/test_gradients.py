"""Gradients of the losses that are this project's own: numeric differences in float64 agree with autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from umim.api.hospital import Task
from umim.models.encoder import create_encoder
from umim.models.heads import create_head
from umim.models.mim import MaskedAutoencoder, MimModel, SimMim, _normalised

SIZE = 16
TARGETS: dict[Task, Tensor] = {
    "classification": torch.tensor([0, 0, 0, 2]),
    "multilabel": torch.tensor([[0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]]),
    "segmentation": torch.zeros(4, SIZE, SIZE).index_fill_(1, torch.arange(5), 1).index_fill_(0, torch.tensor(3), 0),
}
"""With a class that does not occur, a label that always does, and an image without foreground."""


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are computed in float32 at least, by ``float()``; here in float64, which numeric gradients need."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def agree(loss: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Whether gradients agree by all inputs; the loss may also read them where they are."""
    return torch.autograd.gradcheck(
        loss, tuple(value.requires_grad_() for value in inputs), fast_mode=True, atol=1e-7, rtol=1e-5
    )


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_gradients_of_a_heads_loss_by_its_logits(task: Task) -> None:
    targets = TARGETS[task]
    head = create_head(task, create_encoder("vit_pico_patch8_64", SIZE, 0), targets, 0).double()
    shape = targets.shape if task != "classification" else (4, 3)
    assert agree(lambda logits: head.loss(logits, targets), random(*shape))


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_gradients_of_a_heads_loss_by_features_and_weights(task: Task) -> None:
    targets = TARGETS[task]
    head = create_head(task, create_encoder("vit_pico_patch8_64", SIZE, 0), targets, 0).double()
    features = random(4, 96, 2, 2)
    assert agree(lambda *_: head.loss(head(features), targets), features, *head.parameters())


def test_gradients_of_the_normalisation_of_patches() -> None:
    assert agree(_normalised, random(2, 3, 12))
    assert agree(_normalised, 1 + 1e-3 * random(1, 2, 12))  # nearly flat patches


@pytest.mark.parametrize("method", [MaskedAutoencoder, SimMim])
def test_gradients_of_masked_image_modelling_by_images_and_weights(method: Callable[..., MimModel]) -> None:
    encoder = create_encoder("vit_pico_patch8_64", SIZE, 0).double()
    torch.manual_seed(0)
    mim = method(encoder, 0.5).double()
    images = random(2, 3, SIZE, SIZE)
    own: list[nn.Parameter] = [encoder.net.pos_embed, encoder.net.blocks[0].norm1.weight, *mim.parameters()]
    assert agree(lambda *_: mim.loss(encoder, images, torch.Generator().manual_seed(2)), images, *own)


def test_only_hidden_patches_are_learned_from() -> None:
    """SimMIM predicts every position; MAE predicts the hidden ones only, by construction."""
    encoder = create_encoder("vit_pico_patch8_64", SIZE, 0).double()
    torch.manual_seed(0)
    mim = SimMim(encoder, 0.5).double()
    captured: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        captured.append(output)

    mim.predict.register_forward_hook(keep)
    torch.autograd.backward(mim.loss(encoder, random(2, 3, SIZE, SIZE), torch.Generator().manual_seed(2)))
    gradients = captured[0].grad
    assert gradients is not None
    touched_BL = gradients.flatten(2).abs().sum(dim=1) > 0
    assert touched_BL.sum(dim=1).tolist() == [2, 2]
