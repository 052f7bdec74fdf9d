"""One step of DP-SGD, and private trainings as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.training.parts import ARCHITECTURE, SIZE, around, clock, dataset, parent, same, site_config
from umim.api.hospital import PrivacySpec, Task
from umim.api.jobs import SiteJobConfig
from umim.api.privacy import DifferentialPrivacyFloor, DifferentialPrivacySpec
from umim.api.round import Progress, TrainingSpec
from umim.data.dataset import ImageDataset
from umim.data.transforms import AugmentationConfig
from umim.errors import ConfigError
from umim.models.encoder import create_encoder
from umim.models.heads import create_head
from umim.models.mim import create_mim
from umim.models.state import ModelState, Tensors
from umim.rounds.privacy import private_terms
from umim.training import site
from umim.training.accountant import Mechanism
from umim.training.batches import Batches
from umim.training.dp import PrivateSteps, clip_factors, mechanism_of, record_of
from umim.training.learner import Learner
from umim.training.runtime import Runtime
from umim.training.secret import Entropy
from umim.training.site import Surroundings, train_at_site

STILL = AugmentationConfig(flip_probability=0, move_probability=0, brightness=0, contrast=0)
NOISELESS = 1e-12


def learner(
    task: Task = "classification", *, mim: bool = False, architecture: str = ARCHITECTURE, size: int = SIZE
) -> Learner:
    encoder = create_encoder(architecture, size, seed=3)
    targets = torch.from_numpy(dataset(task).targets)
    head = create_head(task, encoder, targets, seed=1, weighted=False)
    return Learner(encoder, head, create_mim(encoder, 0.5, seed=2) if mim else None).train()


def steps_of(
    made: Learner,
    data: ImageDataset,
    runtime: Runtime,
    *,
    noise: float = NOISELESS,
    rate: float = 1.0,
    norm: float = 1.0,
    entropy: Entropy = os.urandom,
) -> PrivateSteps:
    train = Batches(data, np.arange(len(data)), 8, runtime.device)
    return PrivateSteps(made, train, Mechanism(noise, rate, 1), norm, runtime, entropy, lambda _: None)


def gradient(steps: PrivateSteps) -> dict[str, Tensor]:
    """Take a step that changes nothing; returns the gradients of all parameters times the expected images."""
    steps.step(torch.optim.SGD(steps.learner.parameters(), lr=0.0), STILL)
    expected = steps.mechanism.sample_rate * steps.train.images
    return {
        name: value.grad.double() * expected
        for name, value in steps.learner.named_parameters()
        if value.grad is not None
    }


def norm_of(tensors: dict[str, Tensor]) -> float:
    return sum(float(value.double().square().sum()) for value in tensors.values()) ** 0.5


@pytest.mark.parametrize(
    ("task", "mim"),
    [("classification", False), ("classification", True), ("segmentation", False), ("multilabel", False)],
)
def test_without_clipping_and_noise_a_step_has_the_gradient_of_the_whole_batch(
    runtime: Runtime, task: Task, mim: bool
) -> None:
    made, data = learner(task, mim=mim), dataset(task, count=6, patients=6)
    entropy = Random(5).randbytes
    private = gradient(steps_of(made, data, runtime, norm=1000.0, entropy=entropy))
    again = Random(5).randbytes
    again(8)  # the generator for augmentation and masks is seeded first
    generator = runtime.generator(int.from_bytes(Random(5).randbytes(8), "big") >> 1)
    images, targets = next(steps_of(made, data, runtime).train.drawn(1.0, 99, os.urandom, STILL, generator))
    made.zero_grad()
    (made(images, targets, made.draw(6, generator)) * 6).backward()
    for name, value in made.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(private[name], value.grad.double(), rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_where_others_train_in_half_precision_a_private_step_is_computed_in_float32(
    runtime: Runtime, half: torch.dtype
) -> None:
    data = dataset(count=6, patients=6)
    exact = gradient(steps_of(learner(), data, runtime, norm=0.05))
    found = gradient(steps_of(learner(), data, Runtime(runtime.device, half), norm=0.05))
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_no_image_has_more_than_the_largest_norm_over_all_parameters(scales: list[float], most: float) -> None:
    directions = torch.Generator().manual_seed(0)
    scale_B = torch.tensor(scales)
    gradients = {
        "matrix": torch.randn((len(scales), 3, 4), generator=directions) * scale_B[:, None, None],
        "bias": torch.randn((len(scales), 5), generator=directions) * scale_B[:, None],
    }
    factors_B = clip_factors(gradients, most).double()
    for index, factor in enumerate(factors_B):
        own = {name: value[index] for name, value in gradients.items()}
        assert norm_of(own) * factor <= most * (1 + 1e-6)
        assert factor == 1 or norm_of(own) >= most * (1 - 1e-6)


def test_one_image_of_any_kind_moves_the_sum_by_no_more_than_the_largest_norm(runtime: Runtime) -> None:
    """The sensitivity that the noise is made for: one image more or less, and one wildly unlike the others."""
    most, data = 0.05, dataset(count=8, patients=8)
    data.images[-1] = 255
    data.targets[-1] = 1 - data.targets[-1]  # type: ignore[index]
    fewer = ImageDataset(data.images[:-1], data.task, data.targets[:-1], data.classes, data.patients[:-1])  # type: ignore[index]

    def moved(norm: float) -> float:
        made = learner()
        with_all, without = (gradient(steps_of(made, each, runtime, norm=norm)) for each in (data, fewer))
        return norm_of({name: with_all[name] - without[name] for name in with_all})

    assert moved(1000.0) > 2 * most  # the image alone would do more
    assert moved(most) <= most * (1 + 1e-4)


def test_every_parameter_gets_noise_of_the_stated_deviation_although_no_image_is_drawn(runtime: Runtime) -> None:
    made = learner(mim=True)
    found = gradient(steps_of(made, dataset(), runtime, noise=3.0, rate=1e-9, norm=0.5))
    assert found.keys() == {name for name, value in made.named_parameters() if value.requires_grad}
    assert {"encoder.net.pos_embed", "head.linear.weight", "mim.mask_token"} <= found.keys()
    for name, value in found.items():
        assert value.std().item() == pytest.approx(1.5, rel=5 / value.numel() ** 0.5), name
    everything = torch.cat([value.flatten() for value in found.values()])
    assert everything.std().item() == pytest.approx(1.5, rel=0.01)


def test_each_image_is_drawn_by_a_coin_of_its_own(runtime: Runtime) -> None:
    train = steps_of(learner(), dataset(count=400, patients=40), runtime).train
    generator, counts = runtime.generator(0), []
    for _ in range(200):
        parts = list(train.drawn(0.1, 16, os.urandom, STILL, generator))
        assert all(len(images) <= 16 for images, _ in parts)
        counts.append(sum(len(images) for images, _ in parts))
    assert np.mean(counts) == pytest.approx(40, abs=3)
    assert np.std(counts) == pytest.approx(6, abs=1.5)  # binomial; a fixed batch size would have 0


def test_the_proximal_term_comes_behind_clipping_and_noise(runtime: Runtime) -> None:
    made = learner()
    anchors = {name: value.detach() + 2 for name, value in made.encoder.net.named_parameters()}
    made.anchor(anchors, mu=0.5)
    steps = steps_of(made, dataset(), runtime, rate=1e-9, norm=0.01)
    steps.step(torch.optim.SGD(made.parameters(), lr=0.0), STILL)
    for value in made.encoder.net.parameters():
        torch.testing.assert_close(value.grad, torch.full_like(value, -1.0))


def test_swin_trains_privately(runtime: Runtime) -> None:
    data = dataset(count=2, patients=2)
    large = ImageDataset(data.images.repeat(2, 2).repeat(2, 3), data.task, data.targets, data.classes, data.patients)
    made = learner(mim=True, architecture="swin_tiny_patch4_window7_224", size=64)
    found = gradient(steps_of(made, large, runtime))
    assert 0 < norm_of(found) <= 2 * (1 + 1e-5)


# a site's training


def private(work: Path, floor: DifferentialPrivacyFloor | None = None, **training: Any) -> SiteJobConfig:
    """A private training: by the hospital's demand where there is one, else by the round's wish."""
    asked = DifferentialPrivacySpec(noise_multiplier=1.0) if floor is None else None
    config = site_config(work, differential_privacy=asked, **training)
    return config.model_copy(update={"privacy": PrivacySpec(differential_privacy=floor)})


def encoder_of(config: SiteJobConfig, where: Surroundings) -> Tensors:
    return train_at_site(config, ModelState(parent()), dataset(), where).state.encoder


def test_two_runs_of_the_same_spec_have_other_noise(tmp_path: Path, runtime: Runtime) -> None:
    assert not same(
        encoder_of(private(tmp_path / "a", epochs=1), around(runtime)),
        encoder_of(private(tmp_path / "b", epochs=1), around(runtime)),
    )


def test_the_entropy_alone_decides_the_noise(tmp_path: Path, runtime: Runtime) -> None:
    def run(name: str, seed: int) -> Tensors:
        where = Surroundings(runtime, lambda _: None, clock(), entropy=Random(seed).randbytes)
        return encoder_of(private(tmp_path / name, epochs=1, objective="supervised+mim"), where)

    first = run("a", 1)
    torch.manual_seed(99)
    assert same(first, run("b", 1))
    assert not same(first, run("c", 2))


def test_the_record_says_what_was_done_and_a_demand_of_the_hospital_needs_no_round(
    tmp_path: Path, runtime: Runtime
) -> None:
    config = private(tmp_path, DifferentialPrivacyFloor(min_noise_multiplier=2.0, max_grad_norm=0.5), epochs=1)
    record = train_at_site(config, ModelState(parent()), dataset(), around(runtime)).differential_privacy
    assert record is not None
    assert (record.noise_multiplier, record.max_grad_norm, record.sample_rate, record.steps) == (2.0, 0.5, 0.5, 2)
    assert record.epsilon_spent == record.epsilon
    assert record.epsilon > 0


def test_without_a_wish_for_it_a_training_is_not_private_and_leaves_no_ledger(tmp_path: Path, runtime: Runtime) -> None:
    trained = train_at_site(site_config(tmp_path, epochs=1), ModelState(parent()), dataset(), around(runtime))
    assert trained.differential_privacy is None
    assert not (tmp_path / "privacy").exists()


def test_reports_of_a_private_training_do_not_tell_how_many_images_were_drawn(tmp_path: Path, runtime: Runtime) -> None:
    def told(seed: int) -> list[tuple[int, float | None]]:
        reports: list[Progress] = []
        where = Surroundings(runtime, reports.append, clock(seconds=10), entropy=Random(seed).randbytes)
        train_at_site(private(tmp_path / str(seed)), ModelState(parent()), dataset(), where)
        return [(one.step, one.images_per_second) for one in reports]

    assert len(told(1)) == 4
    assert told(2) == told(3)


def test_the_loss_of_a_private_training_weighs_all_classes_alike(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights by frequency would let one label change the gradients of all other images."""
    made: list[Any] = []

    def noted(*given: Any, **named: Any) -> Any:
        made.append(create_head(*given, **named))
        return made[-1]

    monkeypatch.setattr(site, "create_head", noted)
    rare = dataset()
    rare.targets[:] = np.arange(20) >= 18  # type: ignore[index]
    train_at_site(private(tmp_path, epochs=1), ModelState(parent()), rare, around(runtime))
    assert made[0].class_weights.tolist() == [1.0, 1.0]


def test_a_warm_up_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"spec.training.headWarmupEpochs is 1"):
        train_at_site(private(tmp_path, head_warmup_epochs=1), ModelState(parent()), dataset(), around(runtime))


def mechanism(training: TrainingSpec, floor: DifferentialPrivacyFloor | None = None, images: int = 1000) -> Mechanism:
    terms = private_terms(training, PrivacySpec(differential_privacy=floor))
    assert terms is not None
    return mechanism_of(terms, training, images)


def test_the_target_gives_the_noise_unless_the_hospital_demands_more() -> None:
    training = TrainingSpec(batch_size=100, epochs=2, differential_privacy=DifferentialPrivacySpec(target_epsilon=3.0))
    made = mechanism(training)
    assert (made.sample_rate, made.steps) == (0.1, 20)
    terms = private_terms(training, PrivacySpec())
    assert terms is not None
    assert 2.9 < record_of(terms, made).epsilon <= 3.0
    assert mechanism(training, DifferentialPrivacyFloor(min_noise_multiplier=50)).noise_multiplier == 50
    assert mechanism(training, DifferentialPrivacyFloor(min_noise_multiplier=0.1)) == made


def test_a_batch_of_more_images_than_there_are_takes_all() -> None:
    training = TrainingSpec(batch_size=64, differential_privacy=DifferentialPrivacySpec(noise_multiplier=1.0))
    assert mechanism(training, images=10) == Mechanism(1.0, 1.0, 1)


@pytest.mark.parametrize("who", ["spec.training", "spec.privacy"])
def test_a_delta_that_would_let_a_whole_image_out_is_refused(who: str) -> None:
    strict, loose = 1e-5, 0.001
    asked = DifferentialPrivacySpec(noise_multiplier=1.0, delta=loose if who == "spec.training" else strict)
    floor = DifferentialPrivacyFloor(min_noise_multiplier=1.0, delta=loose if who == "spec.privacy" else strict)
    with pytest.raises(ConfigError, match=rf"{who}.differentialPrivacy.delta 0.001 must be below 1 / 1000"):
        mechanism(TrainingSpec(differential_privacy=asked), floor)
    mechanism(TrainingSpec(differential_privacy=asked), floor, images=999)
