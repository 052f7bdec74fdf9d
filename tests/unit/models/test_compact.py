"""This project's small Vision Transformers are timm's, under names of their own."""

import pytest
import timm
import torch

from umim.models.compact import SIZES
from umim.models.encoder import create_encoder


@pytest.mark.parametrize("name", SIZES)
def test_a_plain_call_of_timm_gives_the_same_network(name: str) -> None:
    encoder = create_encoder(name, 64, seed=0).eval()
    width, depth, heads = SIZES[name]
    plain = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=64,
        patch_size=8,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
    ).eval()
    state = encoder.net.state_dict()
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    plain.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(plain(images), encoder.net(images))


@pytest.mark.parametrize(("name", "millions"), [("vit_pico_patch8_64", 0.5), ("vit_nano_patch8_64", 2.7)])
def test_it_has_as_many_parameters_as_documented(name: str, millions: float) -> None:
    count = sum(value.numel() for value in create_encoder(name, 64, seed=0).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("size", [16, 32, 128])
def test_another_image_size_has_as_many_positions(size: int) -> None:
    encoder = create_encoder("vit_pico_patch8_64", size, seed=0)
    assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 96, size // 8, size // 8)


@pytest.mark.parametrize("name", SIZES)
def test_pretrained_weights_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no pretrained weights"):
        timm.create_model(name, pretrained=True)
