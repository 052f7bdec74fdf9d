"""Checkpoints: tensors in safetensors, the rest in JSON. No pickle: loading one runs no code.

``epoch-0003.safetensors`` is written first and ``epoch-0003.json``, which holds its sha256, last: the JSON is
the commit marker. Random states are not saved: those of an epoch are a function of seed and epoch.

The state is copied to the CPU's memory and written by a thread beside the next epoch: hashing and writing a large
model takes seconds in which a GPU would wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from umim.api.base import ApiModel, Digest, Metrics
from umim.artifacts.files import replace_file, sha256_of
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import write_safetensors
from umim.errors import ArtifactError
from umim.training.optimiser import OPTIMISER_PREFIX, load_optimiser_tensors, optimiser_tensors

LOG = logging.getLogger(__name__)
KEPT = 2
FILES = "epoch-*"
"""Glob pattern of the files of checkpoints."""
MODEL_PREFIX = "model."


class CheckpointState(ApiModel):
    """What a checkpoint holds beside its tensors."""

    config_digest: Digest
    """sha256 over everything that training depends on. Another one makes the checkpoint unusable."""
    tensors_digest: Digest
    """sha256 of the tensors file."""
    epoch: Annotated[int, Field(ge=1)]
    """Epochs finished."""
    scaler: dict[str, float | int]
    """State of the loss scaler; empty where there is none."""
    metrics: Metrics
    """Figures so far."""


class Checkpoints:
    """The checkpoints of one training in one folder. The newest two are kept. One is written at a time."""

    def __init__(self, folder: Path, config_digest: str, saved: Callable[[Path], None] = lambda _: None) -> None:
        """``saved`` is told the folder after each checkpoint, by the thread that wrote it."""
        self._folder = folder
        self.config_digest = config_digest
        """sha256 over everything that the training depends on."""
        self._saved = saved
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        epoch: int,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        metrics: Metrics,
    ) -> None:
        """Begin to write the state after ``epoch`` finished epochs, atomically; older ones are removed then.

        Returns when the state is copied and the parts may change. Raises what writing the one before raised.
        """
        self.finish()
        tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
        tensors |= optimiser_tensors(model, optimiser)
        copies = {name: _copied(value) for name, value in tensors.items()}
        self._pending = self._writer.submit(self._write, epoch, copies, scaler.state_dict(), dict(metrics))

    def finish(self) -> None:
        """Wait until what was saved is on disk and ``saved`` was told. Raises what writing it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, epoch: int, tensors: dict[str, Tensor], scaler: dict[str, Any], metrics: Metrics) -> None:
        written = write_safetensors(tensors, self._tensors_path(epoch))
        state = CheckpointState(
            config_digest=self.config_digest,
            tensors_digest=written.digest,
            epoch=epoch,
            scaler=scaler,
            metrics=metrics,
        )
        with replace_file(self._state_path(epoch)) as file:
            file.write(state.model_dump_json(by_alias=True, indent=2).encode())
        for old in self._epochs()[:-KEPT]:
            self._remove(old)
        self._saved(self._folder)

    def resume(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> CheckpointState | None:
        """Load the newest usable checkpoint into the parts and return its state, or None where there is none.

        One that is damaged, or belongs to another configuration or other data, is removed with a warning and the
        one before it is tried.
        """
        for epoch in reversed(self._epochs()):
            loaded = self._load(epoch)
            if loaded is not None:
                state, tensors = loaded
                _restore(model, optimiser, scaler, state, tensors)
                LOG.info("going on after epoch %d from a checkpoint", epoch)
                return state
            self._remove(epoch)
        return None

    def _load(self, epoch: int) -> tuple[CheckpointState, dict[str, Tensor]] | None:
        path = self._tensors_path(epoch)
        try:
            state = CheckpointState.model_validate_json(self._state_path(epoch).read_bytes())
            if state.config_digest != self.config_digest:
                LOG.warning("%s belongs to another configuration or other data; it is not used", path.name)
                return None
            if state.epoch != epoch or sha256_of(path) != state.tensors_digest:
                LOG.warning("%s is damaged: its sha256 is not the recorded one; it is not used", path.name)
                return None
            return state, read_safetensors(path)
        except (OSError, ValidationError, ArtifactError) as error:
            LOG.warning("%s is damaged and not used: %s", path.name, error)
            return None

    def _epochs(self) -> list[int]:
        """Return the epochs that have a commit marker, ascending."""
        return sorted(int(path.stem.removeprefix("epoch-")) for path in self._folder.glob("epoch-[0-9]*.json"))

    def _remove(self, epoch: int) -> None:
        self._state_path(epoch).unlink(missing_ok=True)
        self._tensors_path(epoch).unlink(missing_ok=True)

    def _tensors_path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:04d}.safetensors"

    def _state_path(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:04d}.json"


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy in the CPU's memory."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()


def _restore(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: CheckpointState,
    tensors: dict[str, Tensor],
) -> None:
    own = {name.removeprefix(MODEL_PREFIX): value for name, value in tensors.items() if name.startswith(MODEL_PREFIX)}
    model.load_state_dict(own)
    rest = {name: value for name, value in tensors.items() if name.startswith(OPTIMISER_PREFIX)}
    load_optimiser_tensors(model, optimiser, rest)
    if state.scaler:
        values: dict[str, Any] = dict(state.scaler)
        scaler.load_state_dict(values)
