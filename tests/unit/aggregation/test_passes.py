"""Reading in lockstep: every value once, in order, whole slices, one ahead."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.aggregation.files import mixed_model, source
from umim.aggregation import passes
from umim.aggregation.interface import Array
from umim.aggregation.passes import FEWEST_ELEMENTS, Slice, TensorValues, lockstep, slices
from umim.api.artifacts import TensorInfo
from umim.artifacts.floats import FLOATS
from umim.artifacts.layout import plan_layout, read_layout
from umim.errors import ArtifactError

MODEL = mixed_model(0)


@given(st.integers(1, 1000), st.lists(st.integers(0, 10**8), max_size=3), st.sampled_from(["F32", "BF16", "F64"]))
def test_slices_cover_every_value_once_within_the_budget(sites: int, sizes: list[int], dtype: str) -> None:
    infos = {str(number): TensorInfo(shape=[size], dtype=dtype) for number, size in enumerate(sizes)}
    layout = plan_layout(infos, None)[0]
    found = list(slices(layout, sites))
    assert sum(piece.stop - piece.start for piece in found) == sum(sizes)
    for before, piece in pairwise(found):
        assert piece.start == (before.stop if piece.slot == before.slot else 0)
    for piece in found:
        assert piece.stop - piece.start > 0
        assert sites * piece.buffer_bytes <= max(passes.BUDGET_BYTES, sites * FEWEST_ELEMENTS * 8)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_reader_gives_all_its_values_in_order(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BUDGET_BYTES", 0)
    models = [mixed_model(number) for number in range(5)]
    sources = [source(model) for model in models]
    layouts = [read_layout(one, "it") for one in sources]
    readers = [TensorValues(one, layout) for one, layout in zip(sources, layouts, strict=True)]
    found: dict[str, list[list[Array]]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for piece, values in lockstep(readers, slices(layouts[0], 5), pool, workers):
            found.setdefault(piece.slot.name, []).append([one.copy() for one in values])
    assert list(found) == [slot.name for slot in layouts[0].slots if slot.info.dtype in FLOATS and slot.elements]
    for name, parts in found.items():
        for number, model in enumerate(models):
            whole = np.concatenate([part[number] for part in parts])
            assert whole.tolist() == model[name].double().flatten().tolist()


class Failing:
    """A reader that fails at its second slice."""

    def __init__(self) -> None:
        self.reads = 0

    def values(self, piece: Slice, buffer: bytearray) -> Array:
        self.reads += 1
        if self.reads == 2:
            raise ArtifactError("the second slice is damaged")
        return np.frombuffer(buffer, np.float32, piece.stop - piece.start)


def test_what_a_reader_raises_comes_out_after_the_slices_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BUDGET_BYTES", 0)
    layout = read_layout(source({"w": torch.zeros(3 * FEWEST_ELEMENTS)}), "it")
    seen: list[int] = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ArtifactError, match="the second slice is damaged"):
        seen.extend(piece.start for piece, _ in lockstep([Failing(), Failing()], slices(layout, 2), pool, 2))
    assert seen == [0]


class Gated:
    """A reader whose second read waits until it may go on."""

    def __init__(self) -> None:
        self.reads = 0
        self.done = 0
        self.gate = threading.Event()

    def values(self, piece: Slice, buffer: bytearray) -> Array:
        self.reads += 1
        if self.reads == 2:
            assert self.gate.wait(30)
        self.done += 1
        return np.frombuffer(buffer, np.float32, piece.stop - piece.start)


def test_closing_waits_for_what_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BUDGET_BYTES", 0)
    layout = read_layout(source({"w": torch.zeros(3 * FEWEST_ELEMENTS)}), "it")
    reader = Gated()
    with ThreadPoolExecutor(1) as pool, closing(lockstep([reader], slices(layout, 1), pool, 1)) as running:
        next(running)
        threading.Timer(0.05, reader.gate.set).start()
        running.close()
        assert (reader.reads, reader.done) == (2, 2)
