import torch

from umim.data.transforms import AugmentationConfig, augment, normalise, to_unit

STILL = AugmentationConfig(flip_probability=0, zoom=0, shift=0, brightness=0, contrast=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images() -> torch.Tensor:
    return torch.rand(5, 1, 12, 12, generator=seeded(9))


def test_the_encoder_sees_minus_one_to_one_in_three_channels() -> None:
    result = normalise(to_unit(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)))
    assert result.shape == (2, 3, 1, 1)
    assert result[:, 0, 0, 0].tolist() == [-1, 1]


def test_normalising_leaves_its_input_as_it_is() -> None:
    before = images()
    normalise(before)
    assert torch.equal(before, images())


def test_zero_strength_changes_nothing() -> None:
    result, _ = augment(images(), None, STILL, seeded())
    torch.testing.assert_close(result, images(), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    first, _ = augment(images(), None, AugmentationConfig(), seeded(1))
    again, _ = augment(images(), None, AugmentationConfig(), seeded(1))
    other, _ = augment(images(), None, AugmentationConfig(), seeded(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_values_stay_within_the_unit_range() -> None:
    result, _ = augment(images(), None, AugmentationConfig(brightness=1, contrast=1), seeded())
    assert result.min() >= 0
    assert result.max() <= 1


def test_a_certain_flip_mirrors_left_and_right() -> None:
    config = AugmentationConfig(flip_probability=1, zoom=0, shift=0, brightness=0, contrast=0)
    result, _ = augment(images(), None, config, seeded())
    torch.testing.assert_close(result, images().flip(3), atol=1e-5, rtol=0)


def test_masks_move_with_their_images_and_stay_binary() -> None:
    config = AugmentationConfig(move_probability=1, brightness=0, contrast=0)
    squares = torch.zeros(8, 1, 32, 32)
    squares[:, :, 8:24, 8:20] = 1
    moved, masks = augment(squares, squares[:, 0].to(torch.uint8), config, seeded())
    assert masks is not None
    assert set(masks.unique().tolist()) == {0, 1}
    agree = ((moved[:, 0] > 0.5).float() == masks).float().mean()
    assert agree > 0.97


def test_about_half_of_the_images_are_not_resampled() -> None:
    config = AugmentationConfig(flip_probability=0, brightness=0, contrast=0)
    many = torch.rand(200, 1, 8, 8, generator=seeded(4))
    result, _ = augment(many, None, config, seeded())
    kept = (result - many).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 80 <= int(kept.sum()) <= 120
