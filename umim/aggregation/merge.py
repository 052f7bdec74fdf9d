"""From updates to a model file: the strategy's plan, the server's optimiser, and the writing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umim.aggregation.engine import Engine
from umim.aggregation.interface import Array, Matrix, ServerOptimiser, Strategy
from umim.aggregation.passes import SLICE_BYTES, Slice, TensorValues, slices
from umim.aggregation.updates import Update, UpdateReader
from umim.api.artifacts import TensorInfo
from umim.artifacts.floats import FLOATS, SIZES, bytes_of, values_of
from umim.artifacts.layout import Layout, TensorSlot, read_layout
from umim.artifacts.models import check_tensors
from umim.artifacts.sources import Source
from umim.artifacts.writer import TensorsWriter, WrittenTensors, writing_tensors
from umim.errors import ArtifactError

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Merged:
    """A merged model on the local disk."""

    model: WrittenTensors
    """The tensors, in the parent's shapes and types."""
    slots: Mapping[str, WrittenTensors]
    """What the server's optimiser remembers, a file for each of its slots by name. Empty without one."""


def merge_files(
    strategy: Strategy, engine: Engine, folder: Path, scale: float = 1.0, slots: Mapping[str, Source] | None = None
) -> Merged:
    """Merge an engine's updates and write the model to ``merged.safetensors`` in a folder.

    The merged change is multiplied by ``scale``. ``slots`` are the files that the optimiser wrote with the parent;
    one that is missing starts at 0. Integer and boolean tensors (counters, index tables, masks) keep the parent's
    value: a mean of them has no meaning. Nothing is synced to disk: after a crash the merge is done again.

    Raises BadUpdateError for an update that is not what it should be, ArtifactError when the merge leaves the range
    of a tensor's type or a slot's file is not of this model.
    """
    infos, optimiser = engine.layout.infos, strategy.optimiser
    with ExitStack() as stack:
        writer = stack.enter_context(writing_tensors(folder / "merged.safetensors", infos, durable=False))
        model = _Model(writer, engine.parent, engine.parent_layout)
        plain = optimiser is None and scale == 1
        step = None if optimiser is None else _Step(optimiser, _memories(optimiser, infos, folder, slots or {}, stack))
        pieces = stack.enter_context(closing(engine.merged(strategy.plan(engine))))
        for piece, before, values in pieces:
            model.write(piece, values if plain else _moved(piece, before, values, step, scale), finite=plain)
        model.finish()
    written = {} if step is None else {name: memory.writer.written for name, memory in step.memories.items()}
    return Merged(writer.written, written)


def decode_file(parent: Source, update: Update, path: Path) -> Path:
    """Write what a site trained to a file of the parent's shapes and types, whatever its encoding, and return it.

    Raises BadUpdateError when the update is not what it should be.
    """
    layout = read_layout(parent, "the parent")
    before = TensorValues(parent, layout)
    reader = UpdateReader(update, layout.infos, before)
    with writing_tensors(path, layout.infos, durable=False, hashed=False) as writer:
        model = _Model(writer, parent, layout)
        for piece in slices(writer.layout, 1, SLICE_BYTES):
            values = reader.values(piece, bytearray(piece.buffer_bytes))
            reader.check_finite(piece.slot.name, values)
            model.write(piece, values, finite=True)
        model.finish()
        reader.verify()
    return path


def _moved(piece: Slice, before: Array, values: Array, step: _Step | None, scale: float) -> Array:
    """Return the parent's values moved by the optimiser's step and the scale, computed in float64."""
    change = values.astype(np.float64) - before
    if step is not None:
        change = step(piece, change)
    moved: Array = (before + scale * change).astype(before.dtype)
    return moved


class _Model:
    """Writes the merged model, and the parent's tensors that are not merged in between."""

    def __init__(self, writer: TensorsWriter, parent: Source, layout: Layout) -> None:
        self.writer = writer
        self._parent = parent
        self._layout = layout
        self._slots = iter(writer.layout.slots)
        self._name = ""

    def write(self, piece: Slice, values: Array, *, finite: bool) -> None:
        """Write the values of a piece. ``finite``: they have been found finite in their own type."""
        self._copy_until(piece.slot.name)
        dtype = piece.slot.info.dtype
        raw = bytes_of(values, dtype)
        # Merged in float32: what is finite there may not be in 16 bits.
        known = finite and SIZES[dtype] == values.dtype.itemsize
        if not known and not bool(np.isfinite(values_of(raw, dtype)).all()):
            raise ArtifactError(f"merged tensor {piece.slot.name} is not finite in {dtype}")
        self.writer.write(piece.slot.name, raw)

    def finish(self) -> None:
        self._copy_until(None)

    def _copy_until(self, name: str | None) -> None:
        if name == self._name:
            return
        for slot in self._slots:
            if slot.name == name:
                break
            if slot.info.dtype not in FLOATS:
                self._copy(slot)
        self._name = name or ""

    def _copy(self, slot: TensorSlot) -> None:
        stored = self._layout.by_name[slot.name]
        buffer = bytearray(COPY_BYTES)
        for offset in range(stored.start, stored.stop, COPY_BYTES):
            piece = self._parent.read(offset, min(COPY_BYTES, stored.stop - offset), buffer)
            self.writer.write(slot.name, piece)


@dataclass(frozen=True)
class _Memory:
    """One slot of the optimiser: what it was, and where it goes."""

    writer: TensorsWriter
    before: TensorValues | None

    def read(self, piece: Slice) -> Matrix:
        if self.before is None:
            return np.zeros(piece.stop - piece.start)
        return self.before.values(piece, bytearray(piece.buffer_bytes)).astype(np.float64)


@dataclass(frozen=True)
class _Step:
    """The optimiser's step on one piece of a tensor."""

    optimiser: ServerOptimiser
    memories: Mapping[str, _Memory]

    def __call__(self, piece: Slice, change: Matrix) -> Matrix:
        state = {name: memory.read(piece) for name, memory in self.memories.items()}
        moved, after = self.optimiser.step(change, state)
        for name, memory in self.memories.items():
            memory.writer.write(piece.slot.name, bytes_of(after[name], "F32"))
        return moved


def _memories(
    optimiser: ServerOptimiser,
    infos: Mapping[str, TensorInfo],
    folder: Path,
    slots: Mapping[str, Source],
    stack: ExitStack,
) -> dict[str, _Memory]:
    kinds = sorted({info.dtype for info in infos.values() if info.dtype in FLOATS})
    if len(kinds) > 1:
        raise ArtifactError(
            f"the model's values are of types {', '.join(kinds)}: the server's optimisers need one type"
        )
    remembered = {
        name: TensorInfo(shape=info.shape, dtype="F32") for name, info in infos.items() if info.dtype in FLOATS
    }
    memories = {}
    for name in optimiser.slots:
        writer = stack.enter_context(writing_tensors(folder / f"{name}.safetensors", remembered, durable=False))
        before = None
        if name in slots:
            layout = read_layout(slots[name], f"the optimiser's {name}")
            check_tensors(layout.infos, remembered, f"the optimiser's {name}", "the model's is")
            before = TensorValues(slots[name], layout)
        memories[name] = _Memory(writer, before)
    return memories
