"""Images a second of the training loop against a plain loop of timm and torch on the same work, in one run.

``make benchmark-training``. Both train the same network from the same weights on the same batches with the same
augmentation and optimiser, and save model and optimiser after every epoch; that they do the same work is checked by
their losses. They take turns, and the ratio is that of the medians: other work on the machine slows both. A second
ratio is over the processor's time, which waits for nobody. A third leaves out the time of saving: on a GPU an epoch of
the benchmark is short, and a checkpoint with a digest takes longer than one without.

Where torch sees a GPU the work is a ViT-B/16 at 224 pixels in mixed precision, and the largest memory of the GPU is
reported.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.learning.runs import processor
from umim.api.base import Metrics
from umim.api.round import OptimisationSpec
from umim.artifacts.files import replace_file
from umim.artifacts.manifests import software_versions
from umim.data.dataset import ImageDataset
from umim.data.transforms import AugmentationConfig, augment
from umim.models.encoder import create_encoder
from umim.models.heads import ClassificationHead, create_head
from umim.training.batches import Batches
from umim.training.checkpoint import Checkpoints
from umim.training.engine import Fit
from umim.training.learner import Learner
from umim.training.reporter import Clock, log_progress
from umim.training.runtime import Runtime, start_runtime
from umim.training.schedule import learning_rate
from umim.training.seeds import derive

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 4
SAME_LOSS = {"cpu": 1e-3, "cuda": 2e-2}
"""Largest relative difference of the two losses by device: sums in another order, on a GPU in half precision, nothing
else."""


@dataclass(frozen=True)
class Work:
    """What both loops do in one repeat."""

    architecture: str = "vit_nano_patch8_64"
    image_size: int = 64
    images: int = 768
    batch_size: int = 16
    epochs: int = 1

    def spec(self) -> OptimisationSpec:
        """Return rates and seed."""
        return OptimisationSpec(epochs=self.epochs, batch_size=self.batch_size, learning_rate=1e-4)

    def dataset(self) -> ImageDataset:
        """Return grey images of noise with random classes: speed does not depend on what is seen."""
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (self.images, 1, self.image_size, self.image_size), dtype=np.uint8)
        classes = random.integers(0, CLASSES, self.images)
        names = tuple(f"class {number}" for number in range(CLASSES))
        return ImageDataset(images, "classification", classes, names, np.arange(self.images))


WORK = {"cpu": Work(), "cuda": Work("vit_base_patch16_224", 224, images=6400, batch_size=64, epochs=3)}
"""Work by device, unless other is asked for."""


@dataclass(frozen=True)
class Timed:
    """One repeat of one loop."""

    seconds: float
    cpu_seconds: float
    saving_seconds: float
    """That part of ``seconds`` in which the training waited for checkpoints."""
    loss: float
    """Mean over the last epoch."""
    gpu_peak_bytes: int
    """Largest memory that tensors took on the GPU; 0 without one."""


class TimedCheckpoints(Checkpoints):
    """Checkpoints that know how long they took."""

    seconds = 0.0
    """Sum over all."""

    def save(
        self,
        epoch: int,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        metrics: Metrics,
    ) -> None:
        """Save and add the time. The GPU has nothing left to do here: the mean loss of the epoch was waited for."""
        self.finish()
        started = time.perf_counter()
        super().save(epoch, model, optimiser, scaler, metrics)
        self.seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Wait for what is still being written, and add the time."""
        started = time.perf_counter()
        super().finish()
        self.seconds += time.perf_counter() - started


def project_loop(work: Work, data: ImageDataset, runtime: Runtime, folder: Path) -> Timed:
    """Time this project's loop as a hospital's Job runs it, without validation."""
    learner = _learner(work, data, runtime)
    batches = Batches(data, np.arange(work.images), work.batch_size, runtime.device)
    checkpoints = TimedCheckpoints(folder, "0" * 64)
    fit = Fit(learner, batches, None, work.spec(), runtime, checkpoints, log_progress, Clock())
    return _timed(lambda: (fit.run()["train_loss_last"], checkpoints.seconds), runtime)


def plain_loop(work: Work, data: ImageDataset, runtime: Runtime, folder: Path) -> Timed:
    """Time a loop of timm and torch as their users write it."""
    learner = _learner(work, data, runtime)
    net, head = learner.encoder.net, learner.head
    assert isinstance(head, ClassificationHead)  # as made
    return _timed(lambda: _plain(work, data, net, head.linear, head.class_weights, runtime, folder), runtime)


def _plain(
    work: Work, data: ImageDataset, net: Any, linear: nn.Linear, weights: Tensor, runtime: Runtime, folder: Path
) -> tuple[float, float]:
    """Train, and return the mean loss of the last epoch and the seconds that saving took."""
    spec, device = work.spec(), runtime.device
    model = nn.ModuleList([net, linear]).train()
    images, targets = torch.from_numpy(data.images), torch.from_numpy(data.targets)
    decayed = [value for name, value in model.named_parameters() if name.endswith("weight") and value.ndim > 1]
    plain = [value for name, value in model.named_parameters() if not (name.endswith("weight") and value.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
    steps = -(-work.images // work.batch_size) * work.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate(min(step, steps - 1), steps, 1.0, spec.warmup_fraction)
    )
    mean = saving = 0.0
    for epoch in range(work.epochs):
        generator = torch.Generator(device).manual_seed(derive(spec.seed, "augmentation", epoch))
        order = torch.randperm(work.images, generator=torch.Generator().manual_seed(derive(spec.seed, "order", epoch)))
        total = torch.zeros((), device=device)
        for part in order.split(work.batch_size):
            batch = images[part].to(device, non_blocking=True).float() / 255
            wanted = targets[part].to(device, non_blocking=True)
            batch, _ = augment(batch, None, AugmentationConfig(), generator)
            with runtime.autocast():
                tokens = net.forward_features(((batch - 0.5) / 0.5).expand(-1, 3, -1, -1))
                logits = linear(tokens[:, net.num_prefix_tokens :].mean(dim=1))
                losses = functional.cross_entropy(logits.float(), wanted, reduction="none")
                loss = (losses * weights[wanted]).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip_norm)
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(part)
        mean = total.item() / work.images
        started = time.perf_counter()
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict()}, folder / f"epoch-{epoch}.pt")
        saving += time.perf_counter() - started
    return mean, saving


def _learner(work: Work, data: ImageDataset, runtime: Runtime) -> Learner:
    encoder = create_encoder(work.architecture, work.image_size, 0)
    targets = torch.from_numpy(data.targets)
    return Learner(encoder, create_head("classification", encoder, targets, 0), None).to(runtime.device)


def _timed(train: Callable[[], tuple[float, float]], runtime: Runtime) -> Timed:
    gpu = runtime.device.type == "cuda"
    gc.collect()  # what the loop before left in cycles counts for neither
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started, cpu_started = time.perf_counter(), time.process_time()
    loss, saving = train()
    if gpu:
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Timed(seconds, cpu_seconds, saving, loss, torch.cuda.max_memory_allocated() if gpu else 0)


def compare(work: Work, repeats: int, runtime: Runtime) -> dict[str, Any]:
    """Let both loops take turns after one unmeasured turn each, and return all times and the summary.

    Raises RuntimeError when the losses differ: then it was not the same work.
    """
    data, tolerance = work.dataset(), SAME_LOSS[runtime.device.type]
    loops = {"project": project_loop, "plain": plain_loop}
    found: dict[str, list[Timed]] = {name: [] for name in loops}
    for repeat in range(repeats + 1):
        for name in sorted(loops, reverse=repeat % 2 == 0):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(loops[name](work, data, runtime, Path(folder)))
        ours, plain = (found[name][-1] for name in ("project", "plain"))
        if abs(ours.loss - plain.loss) > tolerance * abs(plain.loss):
            raise RuntimeError(f"the loops did not do the same work: losses {ours.loss} and {plain.loss}")
        print(f"{repeat}/{repeats}: project {ours.seconds:.2f} s, plain {plain.seconds:.2f} s", flush=True)
    measured = {name: times[1:] for name, times in found.items()}
    seen = work.images * work.epochs
    speed = {name: seen / statistics.median(time.seconds for time in times) for name, times in measured.items()}
    cpu = {name: statistics.median(time.cpu_seconds for time in times) for name, times in measured.items()}
    steps = {
        name: statistics.median(time.seconds - time.saving_seconds for time in times)
        for name, times in measured.items()
    }
    return {
        "work": asdict(work),
        "repeats": {name: [asdict(time) for time in times] for name, times in measured.items()},
        "images_per_second": {name: round(value, 1) for name, value in speed.items()},
        "images_per_second_without_saving": {name: round(seen / value, 1) for name, value in steps.items()},
        "gpu_peak_gib": {
            name: round(max(time.gpu_peak_bytes for time in times) / 2**30, 2) for name, times in measured.items()
        },
        "summary": {
            "ratio": round(speed["project"] / speed["plain"], 4),
            "ratio_cpu_time": round(cpu["plain"] / cpu["project"], 4),
            "ratio_without_saving": round(steps["plain"] / steps["project"], 4),
        },
    }


def main() -> int:
    """Measure, write the file and print its summary."""
    gpu = torch.cuda.is_available()
    usual = WORK["cuda" if gpu else "cpu"]
    arguments = _arguments(usual, "training-gpu.json" if gpu else "training.json")
    runtime = start_runtime(arguments.threads)
    work = Work(arguments.architecture, arguments.image_size, arguments.images, arguments.batch_size, usual.epochs)
    load = os.getloadavg()[0]
    result = compare(work, arguments.repeats, runtime)
    result["hardware"] = {
        "device": torch.cuda.get_device_name() if gpu else processor().get("model name", ""),
        "precision": str(runtime.half or torch.float32).removeprefix("torch."),
        "threads": arguments.threads,
        "load_before": round(load, 2),
    }
    result["software"] = {**software_versions(("torch", "timm", "numpy")), "platform": platform.platform()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(arguments.out) as file:
        file.write(json.dumps(result, indent=1).encode() + b"\n")
    shown = ("summary", "images_per_second", "images_per_second_without_saving", "gpu_peak_gib")
    print(json.dumps({name: result[name] for name in shown}))
    return 0


def _arguments(work: Work, file: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training_throughput", description=__doc__)
    parser.add_argument("--architecture", default=work.architecture)
    parser.add_argument("--image-size", type=int, default=work.image_size)
    parser.add_argument("--images", type=int, default=work.images, help="images a repeat")
    parser.add_argument("--batch-size", type=int, default=work.batch_size)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks" / file)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
