"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from umim.api.base import Metrics
from umim.api.round import OptimisationSpec
from umim.data.transforms import AugmentationConfig
from umim.errors import TrainingError
from umim.training.batches import Batch, Batches
from umim.training.checkpoint import Checkpoints
from umim.training.dp import PrivateSteps
from umim.training.learner import Objective
from umim.training.optimiser import create_optimiser, descend, set_learning_rate
from umim.training.reporter import Clock, ProgressSink, Reporter
from umim.training.runtime import Runtime
from umim.training.schedule import learning_rate
from umim.training.seeds import derive
from umim.training.validation import measure


@dataclass(frozen=True)
class Fit:
    """One training: what, on which images, how."""

    learner: Objective
    """On the runtime's device. Changed in place."""
    train: Batches
    """Images to learn from."""
    validation: Batches | None
    """Images to measure before and after. None: nothing is measured."""
    spec: OptimisationSpec
    """Epochs, rates, seed."""
    runtime: Runtime
    """Device and precision."""
    checkpoints: Checkpoints
    """Where to go on from and save to."""
    sink: ProgressSink
    """Told the progress."""
    clock: Clock
    """Times for progress and the duration."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How training images are varied."""
    prepare: Callable[[], None] | None = None
    """Called before a training that starts anew, not before one that goes on from a checkpoint."""
    private: PrivateSteps | None = None
    """Takes the steps where the training is private."""

    def run(self) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one, and return the figures.

        loss_before, loss_after and <score>_after on the validation images (see ``Learner.measure``),
        train_loss_last (mean over the last epoch), seconds. After a crash the result is the same as without, bit
        for bit on the CPU, unless the training is private. Raises TrainingError when a loss is not finite or the GPU's
        memory does not suffice.
        """
        try:
            return self._run()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"batchSize {self.spec.batch_size} needs more memory than the GPU has: {error}"
            ) from error

    def _run(self) -> Metrics:
        optimiser = create_optimiser(self.learner, self.spec)
        scaler = self.runtime.scaler()
        state = self.checkpoints.resume(self.learner, optimiser, scaler)
        if self.private is not None:
            self.private.begin(state.epoch if state else 0)
        if state is None and self.prepare is not None:
            self.prepare()
        first, metrics = (
            (state.epoch, dict(state.metrics)) if state else (0, self._measured("before", with_score=False))
        )
        reporter = Reporter(self.sink, self.clock, self.spec.epochs, self.train.steps, first, self.runtime.device)
        spent, started = metrics.get("seconds", 0.0), self.clock.monotonic()
        try:
            for epoch in range(first, self.spec.epochs):
                self._epoch(epoch, optimiser, scaler, reporter)
                metrics["train_loss_last"] = reporter.end_epoch()
                metrics["seconds"] = round(spent + self.clock.monotonic() - started, 3)
                self.checkpoints.save(epoch + 1, self.learner, optimiser, scaler, metrics)
            return metrics | self._measured("after", with_score=True)
        finally:
            self.checkpoints.finish()

    def _epoch(
        self, epoch: int, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, reporter: Reporter
    ) -> None:
        self.learner.train()
        if self.private is not None:
            self._private_epoch(self.private, epoch, optimiser, reporter)
        else:
            self._plain_epoch(epoch, optimiser, scaler, reporter)

    def _private_epoch(
        self, private: PrivateSteps, epoch: int, optimiser: torch.optim.Optimizer, reporter: Reporter
    ) -> None:
        # How many images a step has drawn is part of what must not be known: the report has the expected number.
        expected = min(self.spec.batch_size, self.train.images)
        for number in range(epoch * self.train.steps, (epoch + 1) * self.train.steps):
            set_learning_rate(optimiser, self._rate(number))
            reporter.step(private.step(optimiser, self.augmentation), expected)

    def _plain_epoch(
        self, epoch: int, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, reporter: Reporter
    ) -> None:
        seed = self.spec.seed
        torch.manual_seed(derive(seed, "dropout", epoch))  # Swin drops paths by the global generator
        generator = self.runtime.generator(derive(seed, "augmentation", epoch))
        batches = self.train.shuffled(derive(seed, "order", epoch), self.augmentation, generator)
        for number, batch in enumerate(batches, start=epoch * self.train.steps):
            set_learning_rate(optimiser, self._rate(number))
            reporter.step(self._step(batch, optimiser, scaler, generator), len(batch[0]))

    def _rate(self, step: int) -> float:
        steps = self.spec.epochs * self.train.steps
        return learning_rate(step, steps, self.spec.learning_rate, self.spec.warmup_fraction)

    def _step(
        self,
        batch: Batch,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
    ) -> torch.Tensor:
        with self.runtime.autocast():
            loss = self.learner.loss(*batch, generator)
        descend(loss, self.learner.parameters(), optimiser, scaler, self.spec.gradient_clip_norm)
        return loss.detach()

    def _measured(self, when: str, *, with_score: bool) -> Metrics:
        if self.validation is None:
            return {}
        loss, score = measure(self.learner, self.validation, self.runtime, derive(self.spec.seed, "validation"))
        result = {f"loss_{when}": loss}
        if with_score and self.learner.score_name is not None:
            result[f"{self.learner.score_name}_{when}"] = score
        return result
