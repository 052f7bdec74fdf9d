"""A hospital's training on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.gpu.parts import (
    ARCHITECTURE,
    GIB,
    SIZE,
    SWIN,
    assert_leaves_the_gpu,
    dataset,
    distance,
    parent,
    site_config,
    tensors_of,
)
from tests.unit.training.parts import Kill, around, clock, kill_after, same
from umim.api.round import OptimisationSpec, Progress
from umim.data.transforms import AugmentationConfig
from umim.errors import TrainingError
from umim.models.encoder import create_encoder
from umim.models.heads import create_head
from umim.training.batches import Batches
from umim.training.checkpoint import Checkpoints
from umim.training.engine import Fit
from umim.training.learner import Learner
from umim.training.optimiser import create_optimiser
from umim.training.runtime import Runtime
from umim.training.site import Trained, train_at_site, work_folder

Record = Callable[[str, object], None]
TERMS: dict[str, Any] = {"objective": "supervised+mim", "proximal_mu": 0.01}
"""All terms of the loss."""
FULL: dict[str, Any] = {**TERMS, "head_warmup_epochs": 1}
SAME_STEPS = 0.05
"""Largest relative difference of a step's loss between the CPU in float32 and the GPU in bfloat16."""
PEAK_GIB = 24
"""A batch of 64 images must fit a GPU of this memory, all terms of the loss together."""


def test_the_gpu_and_its_half_precision_are_chosen(runtime: Runtime) -> None:
    assert runtime.device.type == "cuda"
    wanted = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    assert runtime.half is wanted
    layer = torch.nn.Linear(8, 8).to(runtime.device)
    with runtime.autocast():
        assert layer(torch.ones(1, 8, device=runtime.device)).dtype is wanted
    assert layer.weight.dtype is torch.float32
    assert runtime.scaler().is_enabled() == (wanted is torch.float16)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_images_are_copied_from_pinned_memory_alone(runtime: Runtime) -> None:
    batches = Batches(dataset(64), np.arange(64), 16, runtime.device)
    list(batches.ordered())  # starts CUDA
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as found:
        list(batches.ordered())
        torch.cuda.synchronize()
    copies = [event.name for event in found.events() if "HtoD" in event.name]
    assert len(copies) == 2 * 4  # images and targets of four batches
    assert all("Pinned" in name for name in copies), copies


def test_images_arrive_unchanged_while_the_gpu_is_busy(runtime: Runtime) -> None:
    data, busy = dataset(128), torch.rand(4096, 4096, device=runtime.device)
    batches = Batches(data, np.arange(128), 8, runtime.device)
    for _ in range(50):
        busy = (busy @ busy).clamp(0, 1)  # the copies below queue up behind this
    arrived = list(batches.ordered())
    images_NCHW = torch.cat([images for images, _ in arrived]).mul(255).round().to(torch.uint8).cpu()
    assert torch.equal(images_NCHW, torch.from_numpy(data.images))
    assert data.targets is not None
    assert torch.cat([targets for _, targets in arrived if targets is not None]).tolist() == data.targets.tolist()


def test_a_vit_b_learns_and_leaves_the_gpu_in_float32(
    tmp_path: Path, runtime: Runtime, record_property: Record
) -> None:
    config, start = site_config(tmp_path, epochs=3, batch_size=64, learning_rate=5e-5, **TERMS), parent()
    reports: list[Progress] = []
    began = time.monotonic()
    trained = train_at_site(config, start, dataset(960), around(runtime, reports, clock(seconds=10)))
    seconds, peak = time.monotonic() - began, torch.cuda.max_memory_allocated() / GIB
    record_property("images_per_second_all_terms", round(3 * trained.samples / seconds, 1))
    record_property("peak_gib", round(peak, 2))
    record_property("metrics", dict(trained.metrics))
    losses = [report.loss for report in reports if report.loss is not None]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert trained.metrics["loss_after"] < 0.9 * trained.metrics["loss_before"]
    assert trained.metrics["accuracy_after"] > 0.75
    assert peak < PEAK_GIB
    assert_leaves_the_gpu(tensors_of(trained))
    assert trained.state.mim
    assert trained.state.heads
    assert distance(trained.state.encoder, start.encoder) > 0


@pytest.mark.parametrize("task", ["classification", "multilabel", "segmentation"])
@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", SWIN])
def test_each_task_and_family_trains(tmp_path: Path, runtime: Runtime, task: Any, architecture: str) -> None:
    config = site_config(tmp_path, task, architecture, epochs=6, batch_size=16, learning_rate=3e-4, **TERMS)
    trained = train_at_site(config, parent(architecture), dataset(96, task), around(runtime))
    assert trained.metrics["loss_after"] < trained.metrics["loss_before"]
    assert_leaves_the_gpu({name: value for name, value in tensors_of(trained).items() if value.is_floating_point()})


def small(work: Path, runtime: Runtime) -> Trained:
    """Two epochs of a ViT-B with all terms of the loss."""
    return train_at_site(site_config(work, epochs=2, **FULL), parent(), dataset(96), around(runtime))


def resumed(work: Path, runtime: Runtime) -> Trained:
    """The same, killed in the second epoch, then started again."""
    config = site_config(work, epochs=2, **FULL)
    with pytest.raises(Kill):
        train_at_site(config, parent(), dataset(96), kill_after(runtime, steps=4))
    assert [path.name for path in work_folder(config).glob("epoch-*.json")] == ["epoch-0001.json"]
    return small(work, runtime)


def test_a_killed_training_goes_on_and_ends_where_an_uninterrupted_one_ends(
    tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, record_property: Record
) -> None:
    """``Fit.run`` promises the same bits on the CPU alone: attention's gradient sums in any order on a GPU."""
    whole, again = small(tmp_path / "a", runtime), small(tmp_path / "b", runtime)
    with caplog.at_level("INFO"):
        halves = resumed(tmp_path / "c", runtime)
    assert "going on after epoch 1 from a checkpoint" in caplog.text
    record_property("same_bits_when_repeated", same(tensors_of(whole), tensors_of(again)))
    record_property("same_bits_when_resumed", same(tensors_of(whole), tensors_of(halves)))
    moved = distance(tensors_of(whole), {**tensors_of(whole), **parent().encoder})
    record_property("difference_to_change", distance(tensors_of(whole), tensors_of(halves)) / moved)
    assert distance(tensors_of(whole), tensors_of(halves)) < 0.5 * moved
    assert halves.metrics["loss_after"] == pytest.approx(whole.metrics["loss_after"], rel=0.1, abs=0.02)


def test_where_only_deterministic_operations_are_allowed_a_resumed_training_gives_the_same_bits(
    tmp_path: Path, runtime: Runtime, record_property: Record
) -> None:
    """Not what a Job sets (see ``start_runtime``): it shows that checkpoints lose nothing on a GPU either."""
    torch.use_deterministic_algorithms(True)
    began = time.monotonic()
    whole = small(tmp_path / "a", runtime)
    record_property("seconds", round(time.monotonic() - began, 2))
    halves = resumed(tmp_path / "b", runtime)
    assert same(tensors_of(whole), tensors_of(halves))
    for name in ("loss_before", "loss_after", "accuracy_after", "train_loss_last"):
        assert whole.metrics[name] == halves.metrics[name]


class Recording(Learner):
    """Keeps the loss of each step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []

    def loss(self, images_BCHW: Tensor, targets: Tensor | None, generator: torch.Generator) -> Tensor:
        found = super().loss(images_BCHW, targets, generator)
        self.losses.append(found.item())
        return found


def first_steps(folder: Path, runtime: Runtime) -> list[float]:
    """The losses of four steps with labels. Nothing is random: a GPU draws other numbers than the CPU."""
    data, still = dataset(32), AugmentationConfig(flip_probability=0, move_probability=0, brightness=0, contrast=0)
    encoder = create_encoder(ARCHITECTURE, SIZE, seed=7)
    head = create_head("classification", encoder, torch.from_numpy(data.targets), seed=1)
    learner = Recording(encoder, head, None).to(runtime.device)
    spec = OptimisationSpec(epochs=1, batch_size=8, learning_rate=1e-5)
    batches = Batches(data, np.arange(32), 8, runtime.device)
    Fit(learner, batches, None, spec, runtime, Checkpoints(folder, "0" * 64), lambda _: None, clock(), still).run()
    return learner.losses


def test_the_first_steps_are_those_of_the_cpu_in_float32(
    tmp_path: Path, runtime: Runtime, record_property: Record
) -> None:
    on_gpu = first_steps(tmp_path / "gpu", runtime)
    torch.set_num_threads(4)
    on_cpu = first_steps(tmp_path / "cpu", Runtime(torch.device("cpu"), None))
    torch.set_num_threads(1)
    record_property("losses_gpu", on_gpu)
    record_property("losses_cpu", on_cpu)
    assert len(on_gpu) == 4
    assert on_gpu == pytest.approx(on_cpu, rel=SAME_STEPS)
    assert len({round(loss, 3) for loss in on_cpu}) > 1  # the steps changed something


def test_older_gpus_train_in_float16_with_a_loss_scale(tmp_path: Path, runtime: Runtime) -> None:
    older = replace(runtime, half=torch.float16)
    config = site_config(tmp_path, architecture="vit_tiny_patch16_224", epochs=3, learning_rate=3e-4, **TERMS)
    start = parent("vit_tiny_patch16_224")
    trained = train_at_site(config, start, dataset(160), around(older))
    assert trained.metrics["loss_after"] < trained.metrics["loss_before"]
    assert_leaves_the_gpu(tensors_of(trained))


def test_too_large_a_batch_is_named(tmp_path: Path, runtime: Runtime) -> None:
    config = site_config(tmp_path, batch_size=128, validation_fraction=0.1)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * GIB / total)
    try:
        with pytest.raises(TrainingError, match="batchSize 128 needs more memory than the GPU has"):
            train_at_site(config, parent(), dataset(160), around(runtime))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_optimiser_s_state_goes_through_a_checkpoint_bit_by_bit(tmp_path: Path, runtime: Runtime) -> None:
    def made() -> tuple[Learner, torch.optim.Optimizer, torch.amp.GradScaler]:
        encoder = create_encoder("vit_tiny_patch16_224", SIZE, seed=7)
        head = create_head("classification", encoder, torch.tensor([0, 1]), seed=1)
        learner = Learner(encoder, head, None).to(runtime.device)
        scaler = replace(runtime, half=torch.float16).scaler()
        return learner, create_optimiser(learner, OptimisationSpec(learning_rate=1e-3)), scaler

    learner, optimiser, scaler = made()
    images = torch.rand(8, 1, SIZE, SIZE, device=runtime.device)
    targets = torch.arange(8, device=runtime.device) % 2
    loss = learner.loss(images, targets, runtime.generator(0))
    torch.autograd.backward(scaler.scale(loss))
    scaler.step(optimiser)
    scaler.update(1234.0)
    checkpoints = Checkpoints(tmp_path, "0" * 64)
    checkpoints.save(1, learner, optimiser, scaler, {})
    checkpoints.finish()
    other, its_optimiser, its_scaler = made()
    assert checkpoints.resume(other, its_optimiser, its_scaler) is not None
    assert its_scaler.get_scale() == 1234.0
    for own, its in zip(learner.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, its)
        before, after = optimiser.state[own], its_optimiser.state[its]
        assert before.keys() == after.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(value.device.type == "cuda" for value in after.values())
