"""The aggregation engine: from updates to a merged model, slice by slice, in flat memory.

Every pass goes over all updates in lockstep, checks their digests while the bytes pass, and reduces in a fixed order:
the same inputs give the same bytes with any number of threads, in any order of arrival, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from umim.aggregation.clipping import clip_factors
from umim.aggregation.combine import combined
from umim.aggregation.gram import block_gram, norms, total
from umim.aggregation.interface import Array, Combination, Matrix, Part, Reduction
from umim.aggregation.mixing import nearest_neighbors, transformed
from umim.aggregation.passes import AHEAD, LARGE_SLICE_BYTES, SLICE_BYTES, Slice, TensorValues, lockstep, slices
from umim.aggregation.updates import BadUpdateError, Update, UpdateReader, check_finite, check_squares
from umim.api.round import AggregationSpec
from umim.artifacts.floats import FLOATS
from umim.artifacts.layout import plan_layout, read_layout
from umim.artifacts.sources import Source
from umim.errors import ArtifactError

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""

CHUNK = 1 << 16
"""Values that one thread reduces at a time: the sums of a chunk stay in its core's cache."""


def untold(_done: int, _total: int) -> None:
    """Nobody wants to know."""


class Engine:
    """Goes over a set of updates as often as a strategy needs. It is the strategy's ``Cohort``.

    Every method that reads updates raises BadUpdateError for the first that is not what it should be.
    """

    def __init__(
        self,
        parent: Source,
        updates: Sequence[Update],
        spec: AggregationSpec,
        threads: int,
        progress: Progress = untold,
    ) -> None:
        """``updates``: at least one, sorted by site. Raises ArtifactError when the parent is no tensors file.

        ``threads`` read, hash and reduce, beside the one that asks: no result depends on it. More than there are cores
        where a read waits for the network. ``progress`` is told of every pass how many of its slices are done, from 0,
        and how many there are.
        """
        self._updates = tuple(updates)
        self._spec = spec
        self._threads = threads
        self._progress = progress
        layout = read_layout(parent, "the parent")
        self.parent = parent
        """The parent's tensors file."""
        self.parent_layout = layout
        """Where the tensors lie in it."""
        self._before = TensorValues(parent, layout)
        self.layout = plan_layout(layout.infos, None)[0]
        """Where the tensors lie in a file of the model."""
        self.byzantine = spec.byzantine
        counts = [weight(spec, update.samples) for update in updates]
        self.shares = tuple(one / sum(counts) for one in counts)

    def gram(self) -> Matrix:
        """See ``Cohort``."""
        return self._filtered[1]

    @cached_property
    def raw_gram(self) -> Matrix:
        """Inner products of the sites' changes as they came, before clipping and mixing. Costs one pass, once."""
        count = len(self._updates)
        gram = np.zeros((count, count))

        def block(part: Part) -> Matrix:
            changes = np.empty((count, part.parent.size))
            for number, (update, values) in enumerate(zip(self._updates, part.values, strict=True)):
                # Subtracted in the type of the values: the very changes that the merge works on.
                changes[number] = values - part.parent
                check_finite(update, part.name, changes[number])
                if part.parent.dtype == np.float64:
                    check_squares(update, part.name, changes[number])
            return block_gram(changes)

        def work(piece: Slice, parent: Array, values: Sequence[Array], _: int) -> list[Matrix]:
            return [block(part) for part, _ in _chunks(Part(piece.slot.name, values, parent))]

        for _, _, blocks in self._each_slice(work, range(count), SLICE_BYTES):
            for one in blocks:
                gram += one
        return gram

    @property
    def known_gram(self) -> Matrix | None:
        """``raw_gram`` where somebody has asked for it, else None. Costs nothing."""
        found: Matrix | None = self.__dict__.get("raw_gram")
        return found

    def thresholds(self, density: float) -> Mapping[str, Matrix]:
        """See ``Cohort``. Holds whole tensors: one for each thread."""
        mapping = self._filtered[0] if self._filters else None
        # Clipping scales each change by itself. Mixing is refused beside ties, see ``names``.
        factors: list[float | None] = [None] * len(self._updates)
        if mapping is not None:
            factors = [float(one) for one in np.diag(mapping)]
        found: dict[str, Matrix] = {}
        with self._pool() as pool, self._opened(range(len(self._updates)), pool) as readers:
            pieces = [
                Slice(slot, 0, slot.elements)
                for slot in self.layout.slots
                if slot.info.dtype in FLOATS and slot.elements
            ]
            self._progress(0, len(pieces))
            for done, piece in enumerate(pieces, start=1):
                before = self._before.values(piece, bytearray(piece.buffer_bytes))
                threshold = _threshold(piece, before, density)
                found[piece.slot.name] = np.array(list(pool.map(threshold, readers, factors)))
                self._progress(done, len(pieces))
        return found

    def merged(
        self, plan: Combination | Reduction, into: Mapping[str, Array] | None = None
    ) -> Generator[tuple[Slice, Array, Array]]:
        """Yield the floating-point tensors in the order of the file, in pieces: the parent's values and the merged.

        Both are valid until the next piece is asked for. With ``into``, a 1-D array for each of these tensors in the
        type of its values, the merged lie there and stay. Raises ArtifactError when the merge leaves the range of its
        type: all merged values are finite.
        """
        mapping = self._filtered[0] if self._filters else None
        chosen = list(range(len(self._updates)))
        if isinstance(plan, Combination):
            coefficients = np.array(plan.coefficients, np.float64)
            if mapping is not None:
                coefficients = np.array([total(column * coefficients) for column in mapping.T])
            chosen = [number for number in chosen if coefficients[number] != 0]
            reduce = self._combination(chosen, [float(coefficients[number]) for number in chosen])
        else:
            reduce = self._columns(plan, mapping)
        arrays: list[Array] = [np.empty(0, np.float32)] * AHEAD

        def work(piece: Slice, parent: Array, values: Sequence[Array], turn: int) -> Array:
            if into is not None:
                out = into[piece.slot.name][piece.start : piece.stop]
            else:
                if arrays[turn].size < parent.size or arrays[turn].dtype != parent.dtype:
                    arrays[turn] = np.empty_like(parent)
                out = arrays[turn][: parent.size]
            reduce(Part(piece.slot.name, values, parent), out)
            return out

        # Every merged value is a matter of its own, so that the slices' size changes none.
        hashed = any(self._updates[number].digest is not None for number in chosen)
        with closing(self._each_slice(work, chosen, SLICE_BYTES if hashed else LARGE_SLICE_BYTES)) as each:
            yield from each

    def _combination(self, chosen: Sequence[int], coefficients: Sequence[float]) -> Callable[[Part, Array], None]:
        updates = [self._updates[number] for number in chosen]

        def reduce(part: Part, merged: Array) -> None:
            if coefficients == [1.0]:
                merged[:] = part.values[0]  # one update as it is keeps its bits
                finite = bool(np.isfinite(merged).all())
            else:
                finite = combined(part.values, part.parent, coefficients, merged)
            if not finite:
                for update, values in zip(updates, part.values, strict=True):
                    check_finite(update, part.name, values)
            _check_merged(part, finite)

        return reduce

    def _columns(self, reduction: Reduction, mapping: Matrix | None) -> Callable[[Part, Array], None]:
        def chunk(part: Part, merged: Array) -> None:
            for update, values in zip(self._updates, part.values, strict=True):
                check_finite(update, part.name, values)
            if mapping is not None:
                filtered = [np.empty_like(merged) for _ in mapping]
                for row, values in zip(mapping, filtered, strict=True):
                    combined(part.values, part.parent, row.tolist(), values)
                part = Part(part.name, filtered, part.parent)
            merged[:] = reduction.reduce(part)
            _check_merged(part, bool(np.isfinite(merged).all()))

        def reduce(part: Part, merged: Array) -> None:
            for one, at in _chunks(part):
                chunk(one, merged[at])

        return reduce

    def _each_slice(
        self,
        work: Callable[[Slice, Array, Sequence[Array], int], T],
        chosen: Sequence[int],
        slice_bytes: int,
    ) -> Generator[tuple[Slice, Array, T]]:
        """Yield every slice, the parent's values, and what ``work`` makes of them and the updates' values.

        ``work`` is called as in ``lockstep``.
        """

        def reduce(piece: Slice, values: Sequence[Array], turn: int) -> T:
            return work(piece, values[0], values[1:], turn)

        with self._pool() as pool, self._opened(chosen, pool) as readers:
            pieces = tuple(slices(self.layout, len(self._updates), slice_bytes))
            self._progress(0, len(pieces))
            with closing(lockstep([self._before, *readers], pieces, reduce, pool, self._threads)) as running:
                for done, (piece, values, result) in enumerate(running, start=1):
                    yield piece, values[0], result
                    self._progress(done, len(pieces))

    @property
    def _filters(self) -> bool:
        return self._spec.clip_norm is not None or self._spec.mixing != "none"

    @cached_property
    def _filtered(self) -> tuple[Matrix | None, Matrix]:
        """The linear map of the changes that clipping and mixing are, or None; and the Gram matrix after it."""
        gram = self.raw_gram
        mapping: Matrix | None = None
        if self._spec.clip_norm is not None:
            lengths = [float(length) for length in norms(gram)]
            mapping = np.diag(np.array(clip_factors(lengths, self._spec.clip_norm)))
            gram = transformed(gram, mapping)
        if self._spec.mixing == "nearest-neighbors":
            mixing = nearest_neighbors(gram, self._spec.byzantine)
            gram = transformed(gram, mixing)
            # A product with a diagonal matrix is a factor for each column.
            mapping = mixing if mapping is None else mixing * np.diag(mapping)[None, :]
        return mapping, gram

    @contextmanager
    def _opened(self, chosen: Sequence[int], pool: ThreadPoolExecutor) -> Iterator[list[UpdateReader]]:
        """Open updates for one pass and check their digests at its end."""
        readers = [UpdateReader(self._updates[number], self.layout.infos, self._before) for number in chosen]
        try:
            yield readers
        except BadUpdateError as bad:
            # Where the bytes are others than those that were committed, that is the reason to name.
            next(reader for reader in readers if reader.update.site == bad.site).verify()
            raise
        list(pool.map(UpdateReader.verify, readers))

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        # These threads use all cores already: BLAS' own would only wait for each other. Some builds of BLAS have one
        # limit, some have one for each thread that calls, so it is set here and in the threads.
        blas = ThreadpoolController()
        with (
            blas.limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(self._threads, initializer=lambda: blas.limit(limits=1, user_api="blas")) as pool,
        ):
            yield pool


def _check_merged(part: Part, finite: bool) -> None:
    if not finite:
        raise ArtifactError(f"merged tensor {part.name} is not finite in {part.parent.dtype}")


def _chunks(part: Part) -> Iterator[tuple[Part, slice]]:
    """Yield a part in chunks, and where each lies in it."""
    for start in range(0, part.parent.size, CHUNK):
        at = slice(start, start + CHUNK)
        yield Part(part.name, [one[at] for one in part.values], part.parent[at]), at


def weight(spec: AggregationSpec, samples: int) -> int:
    """Return how much a site with so many training images counts beside the others."""
    # Who may lie may lie about its samples.
    return 1 if spec.byzantine or spec.weighting == "equal" else samples


def _threshold(piece: Slice, before: Array, density: float) -> Callable[[UpdateReader, float | None], float]:
    def of(reader: UpdateReader, factor: float | None) -> float:
        values = reader.values(piece, bytearray(piece.buffer_bytes))
        with np.errstate(all="ignore"):  # what is not finite is looked for, and named
            change = values - before
            if factor is not None:
                # Rounded as the merge does it: a change must not fall below its own threshold.
                change = (change * change.dtype.type(factor) + before) - before
        change = np.abs(change, out=change)
        check_finite(reader.update, piece.slot.name, change)
        place = change.size - max(1, round(density * change.size))
        return float(np.partition(change, place)[place])

    return of
