import pytest
import torch

from umim.models.encoder import create_encoder
from umim.models.heads import SegmentationHead, class_weights, create_head, positive_weights


def test_class_weights_are_inverse_to_frequency_with_mean_one() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    weights = class_weights(targets)
    assert weights[1] == 3 * weights[0]
    assert weights[targets].mean().item() == pytest.approx(1)


def test_a_class_that_does_not_occur_has_weight_zero() -> None:
    assert class_weights(torch.tensor([0, 2])).tolist() == [1, 0, 1]


def test_positive_weights_balance_rare_labels_within_bounds() -> None:
    targets = torch.zeros(100, 3)
    targets[:25, 0] = 1
    targets[:1, 1] = 1
    targets[:, 2] = 1
    assert positive_weights(targets).tolist() == pytest.approx([3, 20, 0.05])


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
def test_a_head_learns_to_fit_one_batch(task) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    encoder = create_encoder("test_vit", 32, seed=0)
    images = torch.rand(6, 3, 32, 32, generator=generator)
    targets = {
        "classification": torch.tensor([0, 1, 2, 0, 1, 2]),
        "multilabel": torch.tensor([[0, 1], [1, 0], [1, 1]] * 2),
        "segmentation": (images[:, 0] > 0.8).long(),
    }[task]
    head = create_head(task, encoder, targets, seed=0)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)
    losses = []
    for _ in range(30):
        loss = head.loss(head(encoder(images)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    scores = head.scores(head(encoder(images)), targets)
    assert scores.shape == (6,)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("stride", [4, 8, 14, 16, 32])
def test_masks_have_the_size_of_the_image_for_every_patch_size(stride: int) -> None:
    assert SegmentationHead(32, stride)(torch.zeros(2, 32, 3, 3)).shape == (2, 3 * stride, 3 * stride)


def test_dice_is_one_for_the_right_mask_and_near_zero_for_a_disjoint_one() -> None:
    head = SegmentationHead(16, 4)
    target = torch.zeros(1, 32, 32)
    target[:, :16] = 1
    assert head.scores(target * 2 - 1, target).item() == pytest.approx(1)
    assert head.scores(1 - target * 2, target).item() < 0.01


def test_head_weights_depend_on_the_seed_alone() -> None:
    encoder, targets = create_encoder("test_vit", 32, seed=0), torch.tensor([0, 1])
    first, again = (create_head("classification", encoder, targets, seed=1).state_dict() for _ in range(2))
    assert torch.equal(first["linear.weight"], again["linear.weight"])
    assert "class_weights" not in first


def test_task_none_has_no_head() -> None:
    with pytest.raises(ValueError, match="task none has no head"):
        create_head("none", create_encoder("test_vit", 32, seed=0), torch.zeros(1), seed=0)
