import pytest
import torch

from umim.models.encoder import create_encoder
from umim.models.mim import MaskedAutoencoder, SimMim, create_mim, patchify


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: int, count: int = 4) -> torch.Tensor:
    """Smooth images, so that hidden patches can be told from visible ones."""
    ramp = torch.linspace(-1, 1, size)
    phase = torch.rand(count, 1, 1, generator=seeded())
    return (torch.sin(4 * (ramp[None, :, None] + phase)) * ramp[None, None, :])[:, None].expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("architecture", "size", "kind"),
    [("test_vit", 64, MaskedAutoencoder), ("swin_tiny_patch4_window7_224", 64, SimMim)],
)
def test_the_family_decides_the_method(architecture: str, size: int, kind: type) -> None:
    assert isinstance(create_mim(create_encoder(architecture, size, seed=0), 0.75, seed=0), kind)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("test_vit", 32),
        ("test_vit3", 32),
        ("deit3_small_patch16_224", 32),
        ("deit_tiny_distilled_patch16_224", 32),
        ("swinv2_tiny_window8_256", 64),
    ],
)
def test_every_used_parameter_of_the_encoder_learns(architecture: str, size: int) -> None:
    encoder = create_encoder(architecture, size, seed=0)
    mim = create_mim(encoder, 0.75, seed=0)
    mim.loss(encoder, images(size), seeded()).backward()
    silent = [name for name, value in encoder.net.named_parameters() if value.grad is None]
    assert [name for name in silent if "attn_pool" not in name] == []
    assert all(value.grad is not None for value in mim.parameters())


@pytest.mark.parametrize("method", [MaskedAutoencoder, SimMim])
def test_the_loss_falls_when_training_on_one_batch(method: type[MaskedAutoencoder] | type[SimMim]) -> None:
    encoder = create_encoder("test_vit", 64, seed=0)
    torch.manual_seed(0)
    mim = method(encoder, 0.5)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *mim.parameters()], lr=1e-3)
    losses = []
    for step in range(15):
        loss = mim.loss(encoder, images(64), seeded(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_encoder_never_sees_hidden_pixels() -> None:
    encoder = create_encoder("test_vit", 64, seed=0).eval()
    mim = MaskedAutoencoder(encoder, 0.75).eval()
    assert (mim.length, mim.visible) == (16, 4)
    order = torch.rand((1, 16), generator=seeded(3)).argsort(dim=1)
    batch = torch.rand(1, 3, 64, 64, generator=seeded(1))
    changed = batch.clone()
    hidden = order[0, 4].item()
    row, column = divmod(hidden, 4)
    changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
    visible = order[:, :4]
    with torch.inference_mode():
        assert torch.equal(mim._encode(encoder, batch, visible), mim._encode(encoder, changed, visible))


def test_encoding_all_patches_in_order_is_the_plain_forward_pass() -> None:
    encoder = create_encoder("test_vit", 64, seed=0).eval()
    mim = MaskedAutoencoder(encoder, 0.75)
    batch = torch.rand(2, 3, 64, 64, generator=seeded())
    with torch.inference_mode():
        tokens = mim._encode(encoder, batch, torch.arange(16).expand(2, -1))
        torch.testing.assert_close(tokens, encoder(batch).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("architecture", "size"), [("test_vit", 64), ("swin_tiny_patch4_window7_224", 64)])
def test_the_generator_alone_decides_the_mask(architecture: str, size: int) -> None:
    encoder = create_encoder(architecture, size, seed=0).eval()
    mim = create_mim(encoder, 0.75, seed=0).eval()
    first, again, other = (mim.loss(encoder, images(size), seeded(seed)).item() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_patch_at_least_is_visible_and_one_hidden() -> None:
    encoder = create_encoder("test_vit", 32, seed=0)
    assert MaskedAutoencoder(encoder, 0.99).visible == 1
    assert MaskedAutoencoder(encoder, 0.01).visible == 3


def test_a_single_position_of_swin_is_hidden_wholly() -> None:
    encoder = create_encoder("swin_tiny_patch4_window7_224", 32, seed=0)
    assert create_mim(encoder, 0.5, seed=0).loss(encoder, images(32), seeded()).isfinite()


def test_patches_are_in_row_order_with_channels_last() -> None:
    batch = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    patches = patchify(batch, 2)
    assert patches.shape == (2, 4, 12)
    assert torch.equal(patches[1, 1].view(2, 2, 3), batch[1, :, 0:2, 2:4].permute(1, 2, 0))


def test_flat_patches_give_a_finite_loss() -> None:
    encoder = create_encoder("test_vit", 32, seed=0)
    loss = create_mim(encoder, 0.75, seed=0).loss(encoder, torch.zeros(2, 3, 32, 32), seeded())
    loss.backward()
    assert loss.isfinite()
