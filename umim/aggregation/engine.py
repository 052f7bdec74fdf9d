"""The aggregation engine: from updates to a merged model, slice by slice, in flat memory.

Every pass goes over all updates in lockstep, checks their digests while the bytes pass, and reduces in a fixed order:
the same inputs give the same bytes with any number of threads, in any order of arrival, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from umim.aggregation.clipping import clip_factors
from umim.aggregation.combine import combined
from umim.aggregation.gram import block_gram, norms, total
from umim.aggregation.interface import Array, Combination, Matrix, Part, Reduction
from umim.aggregation.mixing import nearest_neighbors, transformed
from umim.aggregation.passes import Slice, TensorValues, lockstep, slices
from umim.aggregation.updates import BadUpdateError, Update, UpdateReader, check_finite, check_squares
from umim.api.round import AggregationSpec
from umim.artifacts.floats import FLOATS
from umim.artifacts.layout import plan_layout, read_layout
from umim.artifacts.sources import Source
from umim.errors import ArtifactError

T = TypeVar("T")

CHUNK = 1 << 16
"""Values that one thread reduces at a time: the sums of a chunk stay in its core's cache."""


@dataclass(frozen=True)
class Threads:
    """How many threads a merge may use. No result depends on it."""

    reading: int = 2
    """Threads that read, decode and hash: more than there are cores where a read waits for the network."""
    reducing: int = 2
    """Threads that reduce."""


@dataclass(frozen=True)
class Pools:
    """The threads of one pass."""

    reading: ThreadPoolExecutor
    reducing: ThreadPoolExecutor


class Engine:
    """Goes over a set of updates as often as a strategy needs. It is the strategy's ``Cohort``.

    Every method that reads updates raises BadUpdateError for the first that is not what it should be.
    """

    def __init__(self, parent: Source, updates: Sequence[Update], spec: AggregationSpec, threads: Threads) -> None:
        """``updates``: at least one, sorted by site. Raises ArtifactError when the parent is no tensors file."""
        self._updates = tuple(updates)
        self._spec = spec
        self._threads = threads
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

        def block(part: Part, _: Array) -> Matrix:
            changes = np.empty((count, part.parent.size))
            for number, (update, values) in enumerate(zip(self._updates, part.values, strict=True)):
                # Subtracted in the type of the values: the very changes that the merge works on.
                changes[number] = values - part.parent
                check_finite(update, part.name, changes[number])
                if part.parent.dtype == np.float64:
                    check_squares(update, part.name, changes[number])
            return block_gram(changes)

        for _, _, _, blocks in self._each_slice(block, range(count)):
            for one in blocks:
                gram += one
        return gram

    @property
    def known_gram(self) -> Matrix | None:
        """``raw_gram`` where somebody has asked for it, else None. Costs nothing."""
        found: Matrix | None = self.__dict__.get("raw_gram")
        return found

    def thresholds(self, density: float) -> Mapping[str, Matrix]:
        """See ``Cohort``. Holds whole tensors: one for each reading thread."""
        mapping = self._filtered[0] if self._filters else None
        # Clipping scales each change by itself. Mixing is refused beside ties, see ``names``.
        factors: list[float | None] = [None] * len(self._updates)
        if mapping is not None:
            factors = [float(one) for one in np.diag(mapping)]
        found: dict[str, Matrix] = {}
        with self._pools() as pools, self._opened(range(len(self._updates)), pools) as readers:
            for slot in self.layout.slots:
                if slot.info.dtype in FLOATS and slot.elements:
                    piece = Slice(slot, 0, slot.elements)
                    before = self._before.values(piece, bytearray(piece.buffer_bytes))
                    threshold = _threshold(piece, before, density)
                    found[slot.name] = np.array(list(pools.reading.map(threshold, readers, factors)))
        return found

    def merged(self, plan: Combination | Reduction) -> Generator[tuple[Slice, Array, Array]]:
        """Yield the floating-point tensors in the order of the file, in pieces: the parent's values and the merged.

        The parent's are valid until the next piece is asked for, the merged until the next but one. Raises
        ArtifactError when the merge leaves the range of its type.
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
        with closing(self._each_slice(reduce, chosen)) as each:
            for piece, before, values, _ in each:
                yield piece, before, values

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
                raise ArtifactError(f"merged tensor {part.name} is not finite in {merged.dtype}")

        return reduce

    def _columns(self, reduction: Reduction, mapping: Matrix | None) -> Callable[[Part, Array], None]:
        def reduce(part: Part, merged: Array) -> None:
            for update, values in zip(self._updates, part.values, strict=True):
                check_finite(update, part.name, values)
            if mapping is not None:
                filtered = [np.empty_like(merged) for _ in mapping]
                for row, values in zip(mapping, filtered, strict=True):
                    combined(part.values, part.parent, row.tolist(), values)
                part = Part(part.name, filtered, part.parent)
            merged[:] = reduction.reduce(part)

        return reduce

    def _each_slice(
        self, work: Callable[[Part, Array], T], chosen: Sequence[int]
    ) -> Generator[tuple[Slice, Array, Array, list[T]]]:
        """Yield every slice, the parent's values, an array as large, and in order what ``work`` makes of the chunks.

        ``work`` may write to its part of the array, which is used again for the next slice but one.
        """
        arrays: list[Array] = [np.empty(0, np.float32), np.empty(0, np.float32)]

        def reduce(starts: Sequence[int], name: str, parent: Array, values: Sequence[Array], out: Array) -> list[T]:
            with np.errstate(all="ignore"):  # what is not finite is looked for, and named
                chunks = [slice(start, start + CHUNK) for start in starts]
                return [work(Part(name, [one[at] for one in values], parent[at]), out[at]) for at in chunks]

        with self._pools() as pools, self._opened(chosen, pools) as readers:
            pieces = slices(self.layout, len(self._updates))
            running = lockstep([self._before, *readers], pieces, pools.reading, self._threads.reading)
            with closing(running):
                for piece, (parent, *values) in running:
                    arrays.reverse()
                    if arrays[0].size < parent.size or arrays[0].dtype != parent.dtype:
                        arrays[0] = np.empty_like(parent)
                    out = arrays[0][: parent.size]
                    starts = range(0, parent.size, CHUNK)
                    share = -(-len(starts) // self._threads.reducing)
                    shares = [starts[first : first + share] for first in range(0, len(starts), share)]
                    tasks = [pools.reducing.submit(reduce, one, piece.slot.name, parent, values, out) for one in shares]
                    # Here and not where they are used: what a task raises must pass ``_opened``.
                    yield piece, parent, out, [result for task in tasks for result in task.result()]

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
    def _opened(self, chosen: Sequence[int], pools: Pools) -> Iterator[list[UpdateReader]]:
        """Open updates for one pass and check their digests at its end."""
        readers = [UpdateReader(self._updates[number], self.layout.infos, self._before) for number in chosen]
        try:
            yield readers
        except BadUpdateError as bad:
            # Where the bytes are others than those that were committed, that is the reason to name.
            next(reader for reader in readers if reader.update.site == bad.site).verify()
            raise
        list(pools.reading.map(UpdateReader.verify, readers))

    @contextmanager
    def _pools(self) -> Iterator[Pools]:
        # These threads use all cores already: BLAS' own would only wait for each other. Some builds of BLAS have one
        # limit, some have one for each thread that calls, so it is set here and in the threads.
        blas = ThreadpoolController()
        with (
            blas.limit(limits=1, user_api="blas"),
            ThreadPoolExecutor(self._threads.reading) as reading,
            ThreadPoolExecutor(
                self._threads.reducing, initializer=lambda: blas.limit(limits=1, user_api="blas")
            ) as reducing,
        ):
            yield Pools(reading, reducing)


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
