"""Pretraining, distillation and the server's loss on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.gpu.parts import ARCHITECTURE, SIZE, assert_leaves_the_gpu, dataset, init_config, parent, tensors_of
from tests.unit.training.parts import around, clock, same
from umim.api.round import DistillationSpec, Progress
from umim.distillation.run import Student, Teacher, choose_scale, distil, server_mim_loss
from umim.models.encoder import create_encoder
from umim.models.mim import create_mim
from umim.models.state import ModelState
from umim.training.checkpoint import Checkpoints
from umim.training.runtime import Runtime
from umim.training.site import pretrain
from umim.training.site import tensors_of as module_tensors

CPU = Runtime(torch.device("cpu"), None)
SAME_LOSS = 0.02
"""Largest relative difference of the server's MIM loss: half precision, and other masks, since devices draw their own
random numbers."""


def start(seed: int = 7) -> ModelState:
    """A new encoder with a new decoder."""
    mim = create_mim(create_encoder(ARCHITECTURE, SIZE, seed), 0.75, 1)
    return ModelState(parent(seed=seed).encoder, module_tensors(mim))


def fallen(reports: list[Progress]) -> float:
    """The mean loss of the last five steps by that of the first five."""
    losses = [report.loss for report in reports if report.loss is not None]
    return float(np.mean(losses[-5:]) / np.mean(losses[:5]))


def test_pretraining_learns_and_leaves_the_gpu_in_float32(tmp_path: Path, runtime: Runtime) -> None:
    reports: list[Progress] = []
    trained = pretrain(
        init_config(tmp_path, epochs=3, batch_size=16), dataset(256, "none"), around(runtime, reports, clock(10))
    )
    assert fallen(reports) < 0.95
    assert_leaves_the_gpu(tensors_of(trained))
    assert trained.state.mim


@pytest.mark.parametrize("options", [{}, {"projectors": 1.0, "novelty": 1.0, "anchor": 0.2, "tint": 0.5}])
def test_the_student_learns_from_its_teachers_and_leaves_the_gpu_in_float32(
    tmp_path: Path, runtime: Runtime, options: dict[str, float]
) -> None:
    reports: list[Progress] = []
    teachers = [Teacher(f"hospital-{seed}.x", 10 * seed, parent(seed=seed).encoder) for seed in (1, 2)]
    spec = DistillationSpec(epochs=3, batch_size=16, learning_rate=3e-4, options=options)
    student = Student(ARCHITECTURE, SIZE, dataset(256, "none"))
    merged, checkpoints = start(), Checkpoints(tmp_path, "0" * 64)
    learned, _ = distil(
        spec, student, merged, start(), teachers, checkpoints, around(runtime, reports, clock(seconds=10))
    )
    assert fallen(reports) < 0.95
    assert_leaves_the_gpu(tensors_of(learned))
    assert not same(learned.encoder, merged.encoder)


def test_the_server_s_loss_is_that_of_the_cpu(runtime: Runtime) -> None:
    state, student = start(), Student(ARCHITECTURE, SIZE, dataset(64, "none"))
    torch.set_num_threads(4)
    on_cpu = server_mim_loss(state, student, 0, CPU)
    torch.set_num_threads(1)
    assert server_mim_loss(state, student, 0, runtime) == pytest.approx(on_cpu, rel=SAME_LOSS)


def test_the_scale_of_a_merge_is_chosen_on_the_gpu(runtime: Runtime) -> None:
    before, student = start(), Student(ARCHITECTURE, SIZE, dataset(64, "none"))
    merged = ModelState(parent(seed=3).encoder, before.mim)
    losses = {}
    for scale in (0.5, 1.0):
        _, state = choose_scale([scale], merged, before, student, 0, runtime)
        losses[scale] = server_mim_loss(state, student, 0, runtime)
    assert losses[0.5] != losses[1.0]
    chosen, state = choose_scale([0.5, 1.0], merged, before, student, 0, runtime)
    assert losses[chosen] == min(loss for loss in losses.values() if loss is not None)
    assert_leaves_the_gpu(tensors_of(state))
