"""DP-SGD on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.gpu.parts import assert_leaves_the_gpu, dataset, distance, parent, site_config, tensors_of
from tests.unit.training.parts import around
from tests.unit.training.parts import dataset as small
from tests.unit.training.test_dp import STILL, gradient, learner, norm_of, steps_of
from umim.api.privacy import DifferentialPrivacySpec
from umim.training.batches import Batches
from umim.training.runtime import Runtime
from umim.training.secret import gaussian
from umim.training.site import train_at_site

Record = Callable[[str, object], None]
CPU = Runtime(torch.device("cpu"), None)


def test_a_private_step_has_the_clipped_gradient_of_the_cpu(runtime: Runtime) -> None:
    data, most = small(count=8, patients=8), 0.05
    on_cpu = gradient(steps_of(learner(), data, CPU, norm=most))
    exact = Runtime(runtime.device, None)
    on_gpu = gradient(steps_of(learner().to(runtime.device), data, exact, norm=most))
    difference = norm_of({name: on_gpu[name].cpu() - value for name, value in on_cpu.items()})
    assert norm_of(on_cpu) > most / 2
    assert difference < 0.01 * norm_of(on_cpu)


def test_the_noise_of_a_step_is_as_large_as_said_and_new_each_time(runtime: Runtime) -> None:
    shape = torch.Size([1000, 1000])
    first, second = (gaussian(shape, 2.0, os.urandom, runtime.device) for _ in range(2))
    assert first.device.type == "cuda"
    assert first.dtype is torch.float64
    assert abs(float(first.std()) - 2.0) < 0.01
    assert abs(float(first.mean())) < 0.01
    assert float((first * second).mean().abs()) < 0.02


def test_a_private_vit_b_trains_within_its_epsilon_and_leaves_the_gpu(
    tmp_path: Path, runtime: Runtime, record_property: Record
) -> None:
    private = DifferentialPrivacySpec(target_epsilon=8.0)
    config = site_config(tmp_path, epochs=2, batch_size=32, differential_privacy=private)
    torch.cuda.reset_peak_memory_stats()
    start = parent()
    trained = train_at_site(config, start, dataset(256), around(runtime))
    record_property("peak_gib", round(torch.cuda.max_memory_allocated() / 2**30, 2))
    record_property("seconds", trained.metrics["seconds"])
    assert trained.differential_privacy is not None
    assert 4 < trained.differential_privacy.epsilon <= 8.0
    assert_leaves_the_gpu(tensors_of(trained))
    assert distance(start.encoder, trained.state.encoder) > 0


def test_images_of_a_private_step_come_in_parts_that_fit(runtime: Runtime) -> None:
    batches = Batches(dataset(64), np.arange(64), 16, runtime.device)
    parts = list(batches.drawn(1.0, 5, os.urandom, STILL, runtime.generator(0)))
    assert [len(images) for images, _ in parts] == [5] * 12 + [4]
    assert all(images.device.type == "cuda" for images, _ in parts)
