from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import load_file

from umim.artifacts.writer import write_safetensors
from umim.errors import ConfigError
from umim.models.encoder import create_encoder, pooled

FAMILIES = [
    ("test_vit", 32, 64),
    ("vit_tiny_patch16_224", 32, 192),
    ("deit3_small_patch16_224", 32, 384),
    ("deit_tiny_distilled_patch16_224", 32, 192),
    ("swin_tiny_patch4_window7_224", 64, 768),
    ("swinv2_tiny_window8_256", 64, 768),
]


@pytest.mark.parametrize(("architecture", "size", "width"), FAMILIES)
def test_each_family_gives_a_feature_map_and_a_vector(architecture: str, size: int, width: int) -> None:
    encoder = create_encoder(architecture, size, seed=0)
    features = encoder(torch.zeros(2, 3, size, size))
    side = size // encoder.stride
    assert features.shape == (2, width, side, side)
    assert pooled(features).shape == (2, width)


@pytest.mark.parametrize(("architecture", "size", "width"), FAMILIES)
def test_plain_timm_loads_the_state_and_computes_the_same(
    architecture: str, size: int, width: int, tmp_path: Path
) -> None:
    encoder = create_encoder(architecture, size, seed=3).eval()
    path = tmp_path / "model.safetensors"
    write_safetensors(encoder.net.state_dict(), path)
    plain = timm.create_model(architecture, img_size=size, num_classes=0).eval()
    plain.load_state_dict(load_file(path))
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = (net.forward_features(images) for net in cast(Any, (encoder.net, plain)))
        assert torch.equal(found, wanted)


def test_the_map_has_the_patches_at_their_place() -> None:
    encoder = create_encoder("test_vit", 64, seed=0)
    captured: list[torch.Tensor] = []
    encoder.net.norm.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
    features = encoder(torch.rand(1, 3, 64, 64))
    row, column = 1, 2
    assert torch.equal(features[0, :, row, column], captured[0][0, 1 + row * 4 + column])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = create_encoder("test_vit", 32, seed=5).net.state_dict()
    torch.manual_seed(2)
    again = create_encoder("test_vit", 32, seed=5).net.state_dict()
    other = create_encoder("test_vit", 32, seed=6).net.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(value.dtype == torch.float32 for value in first.values())


def test_making_an_encoder_leaves_the_global_random_state() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    create_encoder("test_vit", 32, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("vit_tiny_patch16_225", r"'vit_tiny_patch16_225' is unknown; .*similar names: .*vit_tiny_patch16_224"),
        ("resnet50", "spec.model.architecture 'resnet50' is unknown; allowed are timm names of Vision Transformers"),
        ("nonsense", "'nonsense' is unknown"),
        ("test_vit.no_such_weights", "spec.model.architecture 'test_vit.no_such_weights' is unknown"),
    ],
)
def test_an_unknown_architecture_is_refused_with_similar_names(architecture: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_encoder(architecture, 32, seed=0)


def test_a_name_with_a_pretrained_tag_is_the_same_encoder() -> None:
    tagged = create_encoder("vit_tiny_patch16_224.augreg_in21k", 32, seed=0).net.state_dict()
    plain = create_encoder("vit_tiny_patch16_224", 32, seed=0).net.state_dict()
    assert all(torch.equal(tagged[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("architecture", "size", "multiple"),
    [("vit_tiny_patch16_224", 24, 16), ("swin_tiny_patch4_window7_224", 48, 32), ("vit_base_patch32_224", 16, 32)],
)
def test_an_image_size_that_leaves_a_rest_is_refused(architecture: str, size: int, multiple: int) -> None:
    with pytest.raises(ConfigError, match=f"spec.model.imageSize {size} does not fit .*multiples of {multiple}"):
        create_encoder(architecture, size, seed=0)
