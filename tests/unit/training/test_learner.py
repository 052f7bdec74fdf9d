"""The objective of a site: its terms and what they pull at."""

import pytest
import torch
from torch import Tensor

from umim.models.encoder import create_encoder
from umim.models.heads import create_head
from umim.models.mim import create_mim
from umim.training.learner import Learner

LABELS = torch.tensor([0, 1, 1])


def learner(*, head: bool = True, mim: bool = False, mim_weight: float = 1.0) -> Learner:
    encoder = create_encoder("vit_pico_patch8_64", 16, seed=0)
    return Learner(
        encoder,
        create_head("classification", encoder, LABELS, 0) if head else None,
        create_mim(encoder, 0.5, 0) if mim else None,
        mim_weight,
    ).double()


def images() -> Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss(of: Learner) -> Tensor:
    return of.loss(images(), LABELS, torch.Generator().manual_seed(1))


def gradients(of: Learner) -> dict[str, Tensor]:
    names, values = zip(*of.named_parameters(), strict=True)
    found = torch.autograd.grad(loss(of), values, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for name, value, gradient in zip(names, values, found, strict=True)
    }


@pytest.mark.parametrize("mu", [0.01, 3.0])
def test_the_proximal_term_pulls_at_the_encoder_by_mu_times_the_distance(mu: float) -> None:
    torch.manual_seed(2)
    parent = {name: value + 0.1 * torch.randn_like(value) for name, value in learner().encoder.net.state_dict().items()}
    free, anchored = learner(), learner()
    anchored.anchor(parent, mu)
    before, after = gradients(free), gradients(anchored)
    for name, value in anchored.encoder.net.named_parameters():
        key = f"encoder.net.{name}"
        torch.testing.assert_close(after[key] - before[key], mu * (value.detach() - parent[name]), rtol=1e-6, atol=1e-9)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("head."))
    distance = sum((value - parent[name]).square().sum().item() for name, value in free.encoder.net.named_parameters())
    assert (loss(anchored) - loss(free)).item() == pytest.approx(mu / 2 * distance, rel=1e-5)


def test_without_mu_there_is_no_proximal_term() -> None:
    free, anchored = learner(), learner()
    anchored.anchor({}, 0.0)
    assert torch.equal(loss(anchored), loss(free))


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    supervised, mim = loss(learner()), loss(learner(head=False, mim=True))
    torch.testing.assert_close(loss(learner(mim=True, mim_weight=0.3)), supervised + 0.3 * mim)


def test_masked_image_modelling_alone_has_weight_one() -> None:
    assert torch.equal(loss(learner(head=False, mim=True, mim_weight=0.3)), loss(learner(head=False, mim=True)))


def test_a_learner_needs_something_to_learn() -> None:
    with pytest.raises(ValueError, match="needs a head, a MIM part, or both"):
        learner(head=False)
