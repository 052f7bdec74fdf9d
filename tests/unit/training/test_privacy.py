import os
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.parts import NOW
from umim.api.hospital import PrivacySpec
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacySpec
from umim.api.round import Progress, TrainingSpec
from umim.training.privacy import allowed_metrics, allowed_progress, clip_scale, protect

PARENT = {"a": torch.zeros(3, 4), "b": torch.ones(5), "count": torch.tensor([3])}
TRAINED = {"a": torch.full((3, 4), 0.5), "b": torch.full((5,), -1.0), "count": torch.tensor([9])}


def norm(update: dict[str, torch.Tensor]) -> float:
    return sum(float((update[name] - PARENT[name]).double().square().sum()) for name in ("a", "b")) ** 0.5


def test_without_clipping_the_trained_values_leave_exactly() -> None:
    result = protect(TRAINED, PARENT, PrivacySpec())
    assert torch.equal(result["a"], TRAINED["a"])
    assert torch.equal(result["b"], TRAINED["b"])


def test_whole_numbers_are_the_parents() -> None:
    assert protect(TRAINED, PARENT, PrivacySpec())["count"].tolist() == [3]


@given(st.floats(1e-3, 1e3))
def test_the_norm_over_all_tensors_is_at_most_the_clip_norm(clip: float) -> None:
    result = protect(TRAINED, PARENT, PrivacySpec(clip_norm=clip))
    # float32 values near 1 round the result by up to 6e-8 each.
    assert norm(result) == pytest.approx(min(clip, norm(TRAINED)), rel=1e-6, abs=2e-7)


def test_clipping_keeps_the_direction() -> None:
    result = protect(TRAINED, PARENT, PrivacySpec(clip_norm=1))
    scale = 1 / norm(TRAINED)
    torch.testing.assert_close(result["a"], TRAINED["a"] * scale)
    torch.testing.assert_close(result["b"], 1 - 2 * torch.full((5,), scale))


def test_an_update_of_zero_is_not_scaled() -> None:
    assert clip_scale({"a": torch.zeros(2)}, 1.0) == 1


def test_noise_has_the_stated_deviation_in_every_value() -> None:
    parent = {"w": torch.zeros(200_000, dtype=torch.float64)}
    privacy = PrivacySpec(clip_norm=0.5, noise_multiplier=3)
    result = protect(parent, parent, privacy, Random(0).randbytes)["w"]
    assert result.std().item() == pytest.approx(1.5, rel=0.01)
    assert result.mean().item() == pytest.approx(0, abs=0.02)
    assert (result != 0).all()


def test_noise_comes_from_entropy_and_never_repeats() -> None:
    privacy = PrivacySpec(clip_norm=1, noise_multiplier=1)
    torch.manual_seed(0)
    first = protect(TRAINED, PARENT, privacy)
    torch.manual_seed(0)
    assert not torch.equal(first["a"], protect(TRAINED, PARENT, privacy)["a"])


def test_the_types_of_the_parent_are_kept() -> None:
    parent = {"w": torch.zeros(4, dtype=torch.bfloat16)}
    result = protect({"w": torch.ones(4)}, parent, PrivacySpec(clip_norm=0.1))
    assert result["w"].dtype == torch.bfloat16


def test_without_permission_no_figure_leaves() -> None:
    told, training = {"loss_after": 1.0}, TrainingSpec()
    assert allowed_metrics(told, training, PrivacySpec(allowed_artifacts=["update"])) == {}
    assert allowed_metrics(told, training, PrivacySpec()) == told


def test_of_a_private_training_no_figure_leaves_whatever_is_allowed() -> None:
    told, asked = {"loss_after": 1.0}, DifferentialPrivacySpec(noise_multiplier=1)
    floor = PrivacySpec(differential_privacy=DifferentialPrivacyFloor(min_noise_multiplier=1))
    progress = Progress(epoch=0, epochs=1, step=1, steps=2, loss=0.5, images_per_second=1, eta_seconds=1, time=NOW)
    for training, privacy in ((TrainingSpec(differential_privacy=asked), PrivacySpec()), (TrainingSpec(), floor)):
        assert allowed_metrics(told, training, privacy) == {}
        assert allowed_progress(progress, training, privacy).loss is None
    assert allowed_progress(progress, TrainingSpec(), PrivacySpec()) == progress


def test_a_noise_cannot_be_found_by_trying_seeds_of_32_bits() -> None:
    """As torch's generator for the CPU would allow: of a seed it takes the lowest 32 bits."""
    asked: list[int] = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    protect(TRAINED, PARENT, PrivacySpec(clip_norm=1, noise_multiplier=1), counted)
    values = sum(value.numel() for value in PARENT.values() if value.is_floating_point())
    assert sum(asked) >= 8 * values
