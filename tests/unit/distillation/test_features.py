"""The objective of the distillation, part by part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from umim.data.transforms import normalise
from umim.distillation.features import FeatureDistiller, FeatureOptions, _tinted
from umim.models.encoder import Encoder, create_encoder
from umim.models.mim import create_mim

NAME, SIZE = "test_vit", 32


def made(seed: int) -> Encoder:
    return create_encoder(NAME, SIZE, seed)


def images(count: int = 3, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, SIZE, SIZE, generator=seeded(5))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distiller(student: Encoder, *teachers: Encoder, parent: Encoder | None = None, **options: Any) -> FeatureDistiller:
    """Distillation without masked image modelling; teachers have equal shares."""
    shares = [1 / len(teachers)] * len(teachers)
    return FeatureDistiller(student, None, teachers, parent, shares, 0.0, FeatureOptions(**options))


def distance(first: Encoder, second: Encoder, batch: Tensor) -> Tensor:
    """The distance (B,) as the documentation has it, computed apart from the code that is tested."""
    maps = []
    for encoder in (first, second):
        map_BDHW = encoder(normalise(batch))
        mean, deviation = map_BDHW.mean(dim=1, keepdim=True), map_BDHW.var(dim=1, keepdim=True, correction=0).sqrt()
        maps.append((map_BDHW - mean) / deviation)
    return (maps[0] - maps[1]).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("options", [{}, {"tint": 0.5}, {"projectors": 1.0}, {"novelty": 1.0}])
def test_a_student_that_equals_its_teachers_has_no_loss(options: dict[str, float]) -> None:
    objective = distiller(made(1), made(1), made(1), parent=made(2), **options)
    assert objective.loss(images(), None, seeded()).item() < 1e-9


def test_the_loss_is_the_mean_of_the_distances_to_the_teachers_by_their_shares() -> None:
    student, first, second = made(1), made(2), made(3)
    objective = FeatureDistiller(student, None, [first, second], None, [0.75, 0.25], 0.0, FeatureOptions())
    expected = 0.75 * distance(student, first, images()) + 0.25 * distance(student, second, images())
    torch.testing.assert_close(objective.loss(images(), None, seeded()), expected.mean(), rtol=1e-4, atol=1e-5)


def test_masked_image_modelling_is_added_with_its_weight() -> None:
    student = made(1)
    mim = create_mim(student, 0.75, seed=0)
    whole = FeatureDistiller(student, mim, [made(2)], None, [1.0], 0.3, FeatureOptions())
    features = distiller(student, made(2)).loss(images(), None, seeded())
    expected = features + 0.3 * mim.loss(student, normalise(images()), seeded())
    torch.testing.assert_close(whole.loss(images(), None, seeded()), expected)


def test_novelty_weighs_each_image_by_how_far_a_teacher_left_the_parent() -> None:
    parent, first, second = made(1), made(2), made(3)
    objective = distiller(made(4), first, second, parent=parent, novelty=1.0)
    inputs = normalise(images())
    wanted = torch.stack([_standard(teacher(inputs)) for teacher in (first, second)])
    changes = torch.stack([distance(teacher, parent, images()) for teacher in (first, second)])
    torch.testing.assert_close(objective._weights(inputs, wanted), changes / changes.sum(dim=0), rtol=1e-4, atol=1e-5)


def test_with_novelty_a_teacher_that_did_not_leave_the_parent_counts_for_nothing() -> None:
    student, parent, changed = made(4), made(1), made(2)
    both = distiller(student, changed, made(1), parent=parent, novelty=1.0).loss(images(), None, seeded())
    alone = distiller(student, changed).loss(images(), None, seeded())
    torch.testing.assert_close(both, alone)


def test_the_anchor_is_one_more_teacher_relative_to_all_others_together() -> None:
    student, first, second, parent = made(1), made(2), made(3), made(4)
    anchored = distiller(student, first, second, parent=parent, anchor=0.5)
    plain = FeatureDistiller(student, None, [first, second, parent], None, [1 / 3] * 3, 0.0, FeatureOptions())
    torch.testing.assert_close(
        anchored.loss(images(), None, seeded()), plain.loss(images(), None, seeded()), rtol=1e-5, atol=1e-6
    )


def test_projectors_start_as_the_identity_learn_and_are_one_a_teacher() -> None:
    student, teachers = made(1), (made(2), made(3))
    objective = distiller(student, *teachers, projectors=1.0)
    loss = objective.loss(images(), None, seeded())
    torch.testing.assert_close(loss, distiller(student, *teachers).loss(images(), None, seeded()))
    torch.autograd.backward(loss)
    assert objective.projectors is not None
    assert len(objective.projectors) == 2
    assert all(value.grad is not None and value.grad.any() for value in objective.projectors.parameters())


def test_teachers_are_neither_trained_nor_saved_nor_set_to_training() -> None:
    student, teacher, parent = made(1), made(2), made(3)
    objective = distiller(student, teacher, parent=parent, novelty=1.0, anchor=1.0).train()
    torch.autograd.backward(objective.loss(images(), None, seeded()))
    assert {name.split(".")[0] for name in objective.state_dict()} == {"encoder"}
    for frozen in (teacher, parent):
        assert not frozen.training
        assert all(value.grad is None and not value.requires_grad for value in frozen.parameters())
    assert student.training
    assert any(value.grad is not None for value in student.parameters())


def test_labels_are_ignored() -> None:
    objective = distiller(made(1), made(2))
    with_labels = objective.loss(images(), torch.tensor([0, 1, 2]), seeded())
    assert torch.equal(with_labels, objective.loss(images(), None, seeded()))


def test_measuring_gives_the_loss_and_no_score() -> None:
    objective = distiller(made(1), made(2))
    measured = objective.measure(images(), None, seeded())
    assert objective.score_name is None
    assert torch.equal(measured, torch.stack([objective.loss(images(), None, seeded()), torch.zeros(())]))


def test_a_tint_colours_grey_images_within_its_strength_and_the_range() -> None:
    grey = images(count=64, channels=1)
    coloured = _tinted(grey, 0.3, seeded())
    assert coloured.shape == (64, 3, SIZE, SIZE)
    assert not torch.equal(coloured[:, 0], coloured[:, 1])
    assert coloured.max() == 1
    factors_B3 = (_tinted(grey / 2, 0.3, seeded()) / (grey / 2)).flatten(2).nanmedian(dim=2).values
    assert 0.7 <= factors_B3.min().item() < 0.75
    assert 1.25 < factors_B3.max().item() <= 1.3


def test_without_a_tint_images_stay_as_they_are_and_no_random_number_is_drawn() -> None:
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(_tinted(images(), 0.0, generator), images())
    assert torch.equal(before, generator.get_state())


@pytest.mark.parametrize("options", [{}, {"novelty": 1.0, "anchor": 0.5}, {"projectors": 1.0}, {"tint": 0.1}])
def test_gradients_are_those_of_the_loss(double: None, options: dict[str, float]) -> None:
    """Numeric and exact gradients agree: of the features' distance, by the student's weights and the projectors'."""
    student = create_encoder("vit_pico_patch8_64", 16, 1).double()
    others = [create_encoder("vit_pico_patch8_64", 16, seed).double() for seed in (2, 3, 4)]
    objective = distiller(student, *others[:2], parent=others[2], **options).double()
    batch = torch.rand(2, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    weights = (student.net.norm.weight, student.net.patch_embed.proj.bias, *_parameters(objective.projectors))
    assert torch.autograd.gradcheck(
        lambda *_: objective.loss(batch, None, seeded()), weights, fast_mode=True, atol=1e-7, rtol=1e-5
    )


def _parameters(module: torch.nn.Module | None) -> list[torch.nn.Parameter]:
    return [] if module is None else list(module.parameters())


def _standard(map_BDHW: Tensor) -> Tensor:
    tokens = map_BDHW.flatten(2).transpose(1, 2)
    return functional.layer_norm(tokens, tokens.shape[-1:])
