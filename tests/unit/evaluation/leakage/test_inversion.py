"""An image can be drawn from its gradient, and not from a noised one."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.unit.evaluation.leakage.parts import SIZE, site
from umim.api.hospital import PrivacySpec
from umim.api.round import TrainingSpec
from umim.evaluation.leakage import inversion
from umim.evaluation.leakage.defences import Defence, defences
from umim.evaluation.leakage.inversion import Gallery, Inversion, Reconstruction, Scenario, Victim, invert
from umim.models.state import Tensors
from umim.training.accountant import Mechanism
from umim.training.batches import Batches
from umim.training.runtime import Runtime

ONE = Scenario(1, 1, "gradient")
QUICK = Inversion(trials=2, searches=1, iterations=3)
TRAINING = TrainingSpec()


def row(gallery: Gallery, defence: str, attack: str) -> Reconstruction:
    return next(one for one in gallery.rows if (one.defence, one.attack) == (defence, attack))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_is_drawn_from_its_gradient_and_not_from_a_noised_one(runtime: Runtime, channels: int) -> None:
    gallery = invert(site(channels=channels), defences(TRAINING, 1.0, 0.1, 8.0), QUICK, runtime, scenarios=[ONE])
    guess = row(gallery, "baseline", "mean image")
    plain, noised = row(gallery, "none", "closed-form"), row(gallery, "clip+noise", "closed-form")
    assert plain.psnr > guess.psnr + 10
    assert plain.ssim > 0.9
    assert plain.identified == 1
    assert noised.psnr < guess.psnr + 1
    assert noised.ssim < 0.3


def test_what_is_attacked_has_passed_the_privacy_floor(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def spy(_victim: Victim, change: Tensors) -> None:
        norms.append(sum(float(value.double().square().sum()) for value in change.values()) ** 0.5)

    monkeypatch.setattr(inversion, "closed_form", spy)
    where = site()
    invert(where, defences(TRAINING, 0.5, 0.1, 8.0)[:2], Inversion(trials=1, iterations=1), runtime, scenarios=[ONE])
    values = sum(value.numel() for value in where.parent.encoder.values())
    noise = 0.1 * 0.5 * values**0.5
    assert norms[0] <= 1 + 1e-6  # gradientClipNorm, in float32
    assert norms[-1] == pytest.approx((0.5**2 + noise**2) ** 0.5, rel=0.02)


def test_clipping_alone_hides_nothing(runtime: Runtime) -> None:
    table = [Defence("clip", TRAINING, PrivacySpec(clip_norm=0.01))]
    gallery = invert(site(), table, QUICK, runtime, scenarios=[ONE])
    assert row(gallery, "clip", "closed-form").identified == 1


def test_matching_brings_the_gradient_nearer_where_there_is_no_closed_form(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "closed_form", lambda _victim, _change: None)
    where = site()
    learner = inversion._learner(where, TRAINING, runtime)
    victim = inversion._victim(where, learner, np.asarray([3]), PrivacySpec(), runtime, seed=1)
    truth = torch.from_numpy(where.dataset.images[[3]] / 255).float()
    trained = inversion.small_update(victim, truth, ONE, TRAINING)
    change = {name: trained[name] - where.parent.encoder[name] for name in trained}
    target = [-value for value in victim.named(change)]
    with sdpa_kernel(SDPBackend.MATH):
        distances = [
            float(inversion.cosine_distance(victim.gradient(guess), target))
            for guess in (inversion.matching(victim, change, Inversion(iterations=n)) for n in (1, 40))
        ]
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize("scenario", inversion.SCENARIOS, ids=lambda one: one.name)
def test_the_learner_stays_as_it_is_and_the_update_is_not_nothing(runtime: Runtime, scenario: Scenario) -> None:
    where = site()
    learner = inversion._learner(where, TRAINING, runtime)
    chosen = np.arange(scenario.images)
    victim = inversion._victim(where, learner, chosen, PrivacySpec(), runtime, seed=1)
    images = torch.from_numpy(where.dataset.images[chosen] / 255).float()
    trained = inversion.small_update(victim, images, scenario, TRAINING)
    now = learner.encoder.net.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in where.parent.encoder.items())
    assert any(not torch.equal(value, now[name]) for name, value in trained.items())


def test_a_plain_gradient_is_cut_as_in_training(runtime: Runtime) -> None:
    where = site()
    learner = inversion._learner(where, TRAINING, runtime)
    victim = inversion._victim(where, learner, np.asarray([0]), PrivacySpec(), runtime, seed=1)
    images = torch.from_numpy(where.dataset.images[[0]] / 255).float()
    trained = inversion.small_update(victim, images, ONE, TrainingSpec(gradient_clip_norm=0.001))
    changes = [trained[name].double() - value.double() for name, value in where.parent.encoder.items()]
    assert sum(float(one.square().sum()) for one in changes) ** 0.5 == pytest.approx(0.001, rel=1e-2)


def test_the_gallery_has_every_scenario_defence_and_attack_beside_baselines(runtime: Runtime) -> None:
    told: list[str] = []
    gallery = invert(site(), defences(TRAINING, 1.0, 0.1, 8.0), QUICK, runtime, told.append)
    names = [one.name for one in inversion.SCENARIOS]
    assert list(gallery.originals) == names
    wanted = {(d, a) for d in ("none", "clip+noise", "dp-sgd") for a in ("closed-form", "matching")}
    wanted |= {("baseline", "mean image"), ("baseline", "another image")}
    assert {(one.scenario, one.defence, one.attack) for one in gallery.rows} == {
        (name, *pair) for name in names for pair in wanted
    }
    assert len(told) == 12
    assert gallery.pool == 48
    assert all(one.example.shape == (1, SIZE, SIZE) for one in gallery.rows)
    counts = {(one.scenario, one.attack): one.images for one in gallery.rows}
    assert counts[names[1], "closed-form"] == counts[names[1], "mean image"] == 8
    assert counts[names[1], "matching"] == 4


def test_masked_image_modelling_is_attacked_without_labels(runtime: Runtime) -> None:
    where = site(24)
    where = replace(where, dataset=replace(where.dataset, task="none", targets=None, classes=()))
    table = [Defence("none", TrainingSpec(objective="mim"), PrivacySpec())]
    gallery = invert(where, table, QUICK, runtime, scenarios=[ONE])
    assert np.isfinite(row(gallery, "none", "matching").psnr)


def test_cosine_distance_is_0_along_1_across_and_2_against() -> None:
    first = [torch.tensor([1.0, 0.0]), torch.tensor([0.0])]
    assert float(inversion.cosine_distance(first, [torch.tensor([3.0, 0.0]), torch.tensor([0.0])])) == 0
    assert float(inversion.cosine_distance(first, [torch.tensor([0.0, 1.0]), torch.tensor([4.0])])) == 1
    assert float(inversion.cosine_distance(first, [torch.tensor([-1.0, 0.0]), torch.tensor([0.0])])) == 2


def test_total_variation_is_the_mean_step_down_and_across() -> None:
    images = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert float(inversion.total_variation(images)) == 1.0


def test_an_image_is_not_drawn_from_a_private_gradient(runtime: Runtime) -> None:
    gallery = invert(site(), defences(TRAINING, 1.0, 0.1, 8.0), QUICK, runtime, scenarios=[ONE])
    guess, private = row(gallery, "baseline", "mean image"), row(gallery, "dp-sgd", "closed-form")
    assert private.psnr < guess.psnr + 1
    assert private.ssim < 0.3


def test_without_noise_a_private_gradient_is_the_clipped_one(runtime: Runtime) -> None:
    where = site()
    learner = inversion._learner(where, TRAINING, runtime)
    victim = inversion._victim(where, learner, np.asarray([3]), PrivacySpec(), runtime, seed=1)
    images = torch.from_numpy(where.dataset.images[[3]] / 255).float()
    clipped = 1e-6
    private = inversion.PrivateNoise(Mechanism(1e-12, 0.5, 10), clipped)
    batch = Batches(where.dataset, np.asarray([3]), 1, runtime.device)
    with sdpa_kernel(SDPBackend.MATH):
        plain = inversion.small_update(victim, images, ONE, TRAINING)
        made = inversion.private_update(learner, batch, ONE, TRAINING, private, os.urandom, runtime)
    wanted, found = (
        [(state[name].double() - start.double()) for name, start in where.parent.encoder.items()]
        for state in (plain, made)
    )
    assert float(inversion.cosine_distance(wanted, found)) < 0.05  # rounding of so small a step
    assert sum(float(one.square().sum()) for one in found) ** 0.5 <= clipped * 1.1


def test_more_noise_is_assumed_where_more_is_added() -> None:
    private = inversion.PrivateNoise(Mechanism(2.0, 0.5, 10), 0.5)
    assert private.deviation(ONE, TRAINING) == 1.0
    assert private.deviation(Scenario(4, 1, "gradient"), TRAINING) == 0.25
    assert private.deviation(Scenario(4, 4, "adamw"), TRAINING) == 2 * TRAINING.learning_rate
