"""Reading in lockstep: every value once, in order, whole slices, a few ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.aggregation.files import mixed_model, source
from umim.aggregation.interface import Array
from umim.aggregation.passes import AHEAD, FEWEST_ELEMENTS, Slice, TensorValues, lockstep, slices
from umim.api.artifacts import TensorInfo
from umim.artifacts.floats import FLOATS
from umim.artifacts.layout import plan_layout, read_layout
from umim.artifacts.sources import Scratch
from umim.errors import ArtifactError

MODEL = mixed_model(0)


@given(
    st.integers(1, 1000),
    st.integers(0, 1 << 24),
    st.lists(st.integers(0, 10**7), max_size=3),
    st.sampled_from(["F32", "BF16", "F64"]),
)
def test_slices_cover_every_value_once_within_the_budget(
    sites: int, slice_bytes: int, sizes: list[int], dtype: str
) -> None:
    infos = {str(number): TensorInfo(shape=[size], dtype=dtype) for number, size in enumerate(sizes)}
    layout = plan_layout(infos, None)[0]
    found = list(slices(layout, sites, slice_bytes))
    assert sum(piece.stop - piece.start for piece in found) == sum(sizes)
    for before, piece in pairwise(found):
        assert piece.start == (before.stop if piece.slot == before.slot else 0)
    for piece in found:
        assert piece.stop - piece.start > 0
        assert sites * piece.buffer_bytes <= max(slice_bytes, sites * FEWEST_ELEMENTS * 8)


def nothing(_piece: Slice, _values: Sequence[Array], _turn: int) -> None:
    """What is made of a slice where only the values matter."""


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_every_reader_gives_all_its_values_in_order(threads: int) -> None:
    models = [mixed_model(number) for number in range(5)]
    sources = [source(model) for model in models]
    layouts = [read_layout(one, "it") for one in sources]
    readers = [TensorValues(one, layout) for one, layout in zip(sources, layouts, strict=True)]
    found: dict[str, list[list[Array]]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for piece, values, _ in lockstep(readers, tuple(slices(layouts[0], 5, 0)), nothing, pool, threads):
            found.setdefault(piece.slot.name, []).append([one.copy() for one in values])
    assert list(found) == [slot.name for slot in layouts[0].slots if slot.info.dtype in FLOATS and slot.elements]
    for name, parts in found.items():
        for number, model in enumerate(models):
            whole = np.concatenate([part[number] for part in parts])
            assert whole.tolist() == model[name].double().flatten().tolist()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_what_is_made_of_a_slice_is_not_overwritten_before_the_next_is_asked_for(threads: int) -> None:
    count = 20
    data = source({"w": torch.arange(count * FEWEST_ELEMENTS, dtype=torch.float32)})
    layout = read_layout(data, "it")
    turns = [-1] * AHEAD

    def work(piece: Slice, values: Sequence[Array], turn: int) -> int:
        turns[turn] = piece.start
        assert values[0][0] == piece.start
        return turn

    with ThreadPoolExecutor(threads) as pool:
        running = lockstep([TensorValues(data, layout)] * 3, tuple(slices(layout, 3, 0)), work, pool, threads)
        for piece, values, turn in running:
            time.sleep(0.001)  # the threads go on as far as they may
            assert turns[turn] == piece.start
            assert [one[0] for one in values] == [piece.start] * 3


class Failing:
    """A reader that fails at one of its slices."""

    def __init__(self, at: int, name: str = "it", waits: float = 0) -> None:
        self.reads = 0
        self._at = at
        self._name = name
        self._waits = waits

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        self.reads += 1
        if self.reads == self._at:
            time.sleep(self._waits)
            raise ArtifactError(f"{self._name} is damaged")
        return np.frombuffer(buffer, np.float32, piece.stop - piece.start)


def three_slices() -> tuple[Slice, ...]:
    return tuple(slices(read_layout(source({"w": torch.zeros(3 * FEWEST_ELEMENTS)}), "it"), 1, 0))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_what_a_reader_raises_comes_out_after_the_slices_before(threads: int) -> None:
    pieces = three_slices()
    readers = [Failing(2), Failing(2)]
    seen: list[int] = []
    with ThreadPoolExecutor(threads) as pool, pytest.raises(ArtifactError, match="it is damaged"):
        seen.extend(piece.start for piece, _, _ in lockstep(readers, pieces, nothing, pool, threads))
    assert seen == [0]
    assert [reader.reads for reader in readers] <= [2, 2]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_of_several_readers_that_fail_at_a_slice_the_first_ones_error_comes_out(threads: int) -> None:
    pieces = three_slices()
    readers = [Failing(0), Failing(3, "first", waits=0.05), Failing(3, "second"), Failing(3, "third")]
    with ThreadPoolExecutor(threads) as pool, pytest.raises(ArtifactError, match="first is damaged"):
        list(lockstep(readers, pieces, nothing, pool, threads))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_what_the_work_raises_comes_out_after_the_slices_before(threads: int) -> None:
    pieces = three_slices()

    def work(piece: Slice, _values: Sequence[Array], _turn: int) -> None:
        if piece.start == FEWEST_ELEMENTS:
            raise ArtifactError("the second slice cannot be merged")

    seen: list[int] = []
    with ThreadPoolExecutor(threads) as pool, pytest.raises(ArtifactError, match="the second slice cannot be merged"):
        seen.extend(piece.start for piece, _, _ in lockstep([Failing(0)], pieces, work, pool, threads))
    assert seen == [0]


class Gated:
    """A reader whose second read waits until it may go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self.gate = threading.Event()

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        self.begun += 1
        if self.begun == 2:
            assert self.gate.wait(30)
        self.done += 1
        return np.frombuffer(buffer, np.float32, piece.stop - piece.start)


def test_closing_waits_for_what_is_being_read() -> None:
    pieces = three_slices()
    reader = Gated()
    with (
        ThreadPoolExecutor(1) as pool,
        closing(lockstep([reader], pieces, nothing, pool, 1)) as running,
    ):
        next(running)
        while reader.begun < 2:
            time.sleep(0.001)
        threading.Timer(0.05, reader.gate.set).start()
        running.close()
        assert (reader.begun, reader.done) == (2, 2)


def test_no_thread_reads_further_ahead_than_there_are_buffers() -> None:
    layout = read_layout(source({"w": torch.zeros(20 * FEWEST_ELEMENTS)}), "it")
    readers = [Failing(0), Failing(0)]
    with ThreadPoolExecutor(2) as pool:
        for index, _ in enumerate(lockstep(readers, tuple(slices(layout, 2, 0)), nothing, pool, 2)):
            time.sleep(0.002)
            assert max(reader.reads for reader in readers) <= index + AHEAD
