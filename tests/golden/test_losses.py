"""Golden losses: a change of model, data order, augmentation, optimiser or schedule shows here.

Recorded on a CPU with one thread. Other versions of torch and other processors add up in another order: the
tolerance of 1e-3, relative, allows for that, and for nothing that changes what is computed. A change that is meant to
change training updates the numbers in the same commit and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.distillation.parts import distilled, mixed, state_of, student
from tests.unit.training.parts import around, dataset, init_config, parent, site_config
from umim.distillation.run import Teacher, server_mim_loss
from umim.models.encoder import create_encoder
from umim.models.mim import create_mim
from umim.models.state import ModelState
from umim.training.runtime import Runtime
from umim.training.site import pretrain, train_at_site

TOLERANCE = 1e-3
GOLDEN = {
    "first test_vit": [1.305834],
    "first swin_tiny_patch4_window7_224": [1.325184],
    "classification": [0.6812783, 0.8301471, 0.8074219],
    "segmentation": [1.228992, 1.347314, 1.222062],
    "head warm-up": [0.6924812, 0.7037183, 0.9300662],
    "pretraining": [1.259404],
    "distillation": [1.520374, 1.113530],
    "distillation projectors": [1.465522, 1.113342],
    "distillation novelty": [1.423091, 1.109807],
    "distillation tint": [1.512466, 1.128628],
    "distillation anchor": [1.402232, 1.123886],
}


def check(name: str, values: list[float]) -> None:
    assert values == pytest.approx(GOLDEN[name], rel=TOLERANCE), f"{name}: {values}"


@pytest.mark.parametrize("architecture", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_first_mim_loss(architecture: str) -> None:
    size = 64
    encoder = create_encoder(architecture, size, seed=0).eval()
    mim = create_mim(encoder, 0.75, seed=0).eval()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        loss = mim.loss(encoder, images, torch.Generator().manual_seed(2))
    check(f"first {architecture}", [loss.item()])


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_supervised_and_mim_training(tmp_path: Path, runtime: Runtime, task) -> None:  # type: ignore[no-untyped-def]
    config = site_config(tmp_path, task, objective="supervised+mim", epochs=3, learning_rate=1e-4, proximal_mu=0.1)
    metrics = train_at_site(config, ModelState(parent()), dataset(task), around(runtime)).metrics
    check(task, [metrics["loss_before"], metrics["train_loss_last"], metrics["loss_after"]])


def test_training_after_a_head_warm_up(tmp_path: Path, runtime: Runtime) -> None:
    config = site_config(tmp_path, epochs=3, learning_rate=1e-4, head_warmup_epochs=5)
    metrics = train_at_site(config, ModelState(parent()), dataset(), around(runtime)).metrics
    check("head warm-up", [metrics["loss_before"], metrics["train_loss_last"], metrics["loss_after"]])


def test_pretraining(tmp_path: Path, runtime: Runtime) -> None:
    trained = pretrain(init_config(tmp_path, epochs=3, learning_rate=1e-4), dataset("none"), around(runtime))
    check("pretraining", [trained.metrics["train_loss_last"]])


@pytest.mark.parametrize("option", ["", "projectors", "novelty", "tint", "anchor"])
def test_distillation(tmp_path: Path, runtime: Runtime, option: str) -> None:
    teachers = [Teacher("hospital-a.x", 300, mixed(7, 1, 0.2)), Teacher("hospital-b.x", 100, mixed(7, 2, 0.8))]
    merged = ModelState(mixed(7, 1, 0.1), state_of(7, decoder=True).mim)
    options = {option: 1.0} if option else {}
    learned, metrics = distilled(tmp_path, runtime, merged, teachers, epochs=3, options=options)
    loss = server_mim_loss(learned, student(), 0, runtime)
    assert loss is not None
    check(f"distillation {option}".strip(), [metrics["distillation_loss_last"], loss])
