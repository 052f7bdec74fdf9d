"""Live progress at a bounded rate, so that the device is rarely waited for."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor

from umim.api.round import Progress
from umim.errors import TrainingError

LOG = logging.getLogger(__name__)
REPORT_SECONDS = 2.0
LOADING_SECONDS = 5.0

ProgressSink = Callable[[Progress], None]


@dataclass(frozen=True)
class Clock:
    """The times that training reads."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """Time of day, with zone."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that never go back."""


def log_loading(clock: Clock) -> Callable[[int, int], None]:
    """Return a report for ``umim.data.load`` that logs, at a bounded rate, how many files are read and for how long."""
    started = logged = clock.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal logged
        now = clock.monotonic()
        if done == total or now - logged >= LOADING_SECONDS:
            logged = now
            LOG.info("read %d of %d, %.0f s", done, total, now - started)

    return report


def log_progress(progress: Progress) -> None:
    """Log one report of a training or a merge."""
    if progress.images_per_second is None:
        LOG.info("merged %d of %d slices, %.0f s left", progress.step, progress.steps, progress.eta_seconds)
        return
    LOG.info(
        "epoch %d/%d, step %d/%d, loss %s, %.1f images/s, %.0f s left",
        min(progress.epoch + 1, progress.epochs),
        progress.epochs,
        progress.step,
        progress.steps,
        "-" if progress.loss is None else f"{progress.loss:.4f}",
        progress.images_per_second,
        progress.eta_seconds,
    )


class MergeReporter:
    """Reports how far a pass over the updates is, about every ``REPORT_SECONDS``. A short pass is not reported."""

    def __init__(self, sink: ProgressSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._started = self._reported = clock.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total`` slices; 0 starts a pass."""
        now = self._clock.monotonic()
        if done == 0:
            self._started = self._reported = now
        elif now - self._reported >= REPORT_SECONDS or (done == total and self._reported > self._started):
            self._reported = now
            left = (now - self._started) / done * (total - done)
            time = self._clock.now()
            self._sink(Progress(epoch=0, epochs=1, step=done, steps=total, eta_seconds=left, time=time))


class Reporter:
    """Sums losses on the device and reports their mean about every ``REPORT_SECONDS``.

    Only a report and the end of an epoch copy the loss to the host; there, a loss that is not finite raises
    TrainingError.
    """

    def __init__(
        self, sink: ProgressSink, clock: Clock, epochs: int, steps: int, finished_epochs: int, device: torch.device
    ) -> None:
        """Start at ``finished_epochs`` of ``epochs``, with ``steps`` in each."""
        self._sink = sink
        self._clock = clock
        self._epochs = epochs
        self._steps = epochs * steps
        self._epoch = finished_epochs
        self._first_step = self._step = finished_epochs * steps
        self._window = _Mean(device)
        self._whole = _Mean(device)
        self._started = self._reported = clock.monotonic()

    def step(self, loss: Tensor, images: int) -> None:
        """Count one step."""
        self._window.add(loss, images)
        self._whole.add(loss, images)
        self._step += 1
        if self._step < self._steps and self._clock.monotonic() - self._reported >= REPORT_SECONDS:
            self._report()

    def end_epoch(self) -> float:
        """Count one epoch and return its mean loss. The last epoch is always reported."""
        self._epoch += 1
        mean = self._finite(self._whole.take())
        if self._epoch == self._epochs:
            self._report()
        return mean

    def _report(self) -> None:
        now = self._clock.monotonic()
        images = self._window.images
        seconds_a_step = (now - self._started) / (self._step - self._first_step)
        progress = Progress(
            epoch=self._epoch,
            epochs=self._epochs,
            step=self._step,
            steps=self._steps,
            loss=self._finite(self._window.take()),
            images_per_second=images / max(now - self._reported, 1e-6),
            eta_seconds=seconds_a_step * (self._steps - self._step),
            time=self._clock.now(),
        )
        self._reported = now
        self._sink(progress)

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} by step {self._step} of {self._steps} (epoch {self._epoch + 1}): lower "
                "spec.training.learningRate or spec.training.gradientClipNorm"
            )
        return loss


class _Mean:
    """A mean over images whose sum stays on the device until it is taken."""

    def __init__(self, device: torch.device) -> None:
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self.images = 0

    def add(self, loss: Tensor, images: int) -> None:
        self._sum += loss.detach().double() * images
        self.images += images

    def take(self) -> float:
        mean = self._sum.item() / max(1, self.images)
        self._sum.zero_()
        self.images = 0
        return mean
