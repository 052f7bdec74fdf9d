"""The same rules in float64 with plain numpy, tensor by tensor: what every result is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from tests.benchmarks.aggregation.inputs import Inputs

Values = NDArray[np.float64]
PIECE = 1 << 18
"""Values of a tensor that are merged at once: what numpy holds for it stays small."""


def write_reference(rule: str, inputs: Inputs, byzantine: int, path: Path) -> None:
    """Write the merged model as flat float64, tensors sorted by name."""
    merge = _rule(rule, inputs, byzantine)
    with ExitStack() as stack, path.open("wb") as file:
        files = [_open(stack, one) for one in inputs.updates]
        for name in sorted(files[0].keys()):
            for piece in _pieces(files, name):
                file.write(merge(piece).tobytes())


def largest_error(output: Path, reference: Path) -> float:
    """Return the largest absolute difference between a model's file and a reference; infinity if it is not finite."""
    expected = np.memmap(reference, np.float64, "r")
    worst, offset = 0.0, 0
    with ExitStack() as stack:
        file = _open(stack, output)
        for name in sorted(file.keys()):
            found = file.get_tensor(name).reshape(-1)
            for start in range(0, found.size, PIECE):
                piece = found[start : start + PIECE]
                begin = offset + start
                error = np.abs(piece - expected[begin : begin + piece.size]).max()
                worst = float(np.maximum(worst, error))  # max would lose what is not a number
            offset += found.size
    if offset != expected.size:
        raise RuntimeError(f"{output.name} holds {offset} values, {expected.size} were expected")
    return worst if np.isfinite(worst) else float("inf")


def _rule(rule: str, inputs: Inputs, byzantine: int) -> Callable[[Values], Values]:
    """Return what makes of values [K, n] the merged [n]."""
    if rule == "mean":
        shares = np.array(inputs.samples, np.float64) / sum(inputs.samples)
        return lambda values: np.asarray(shares @ values)
    if rule == "median":
        return lambda values: np.asarray(np.median(values, axis=0))
    if rule == "trimmed-mean":
        return lambda values: np.asarray(np.sort(values, axis=0)[byzantine : len(values) - byzantine].mean(axis=0))
    chosen = _krum(inputs, byzantine)
    return lambda values: values[chosen]


def _krum(inputs: Inputs, byzantine: int) -> int:
    """Return the number of the update that lies nearest to its neighbours (arXiv 1703.02757)."""
    count = len(inputs.updates)
    distances = np.zeros((count, count))
    with ExitStack() as stack:
        files = [_open(stack, one) for one in inputs.updates]
        for name in sorted(files[0].keys()):
            for values in _pieces(files, name):
                changes = values - values.mean(axis=0)
                products = changes @ changes.T
                norms = np.diag(products)
                distances += norms[:, None] + norms[None, :] - 2 * products
    np.fill_diagonal(distances, np.inf)
    return int(np.sort(distances, axis=1)[:, : count - byzantine - 2].sum(axis=1).argmin())


def _pieces(files: list[Any], name: str) -> Iterator[Values]:
    tensors = [file.get_tensor(name).reshape(-1) for file in files]
    for start in range(0, tensors[0].size, PIECE):
        yield np.stack([tensor[start : start + PIECE] for tensor in tensors]).astype(np.float64)


def _open(stack: ExitStack, path: Path) -> Any:
    return stack.enter_context(safe_open(path, "np"))
