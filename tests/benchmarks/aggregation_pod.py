"""Merges many large updates in one aggregator Pod with little memory: ``python -m tests.benchmarks.aggregation_pod``.

Needs the embedded cluster, and disk for all the updates in its object store. Prints what it does with elapsed times,
and at the end one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hack.cluster.progress import Progress
from hack.testenv.aggregations import Aggregation, committed, peak_memory, samples_of
from hack.testenv.platform import bring_up
from tests.benchmarks.aggregation.inputs import Inputs, make_inputs
from umim import contract
from umim.api.round import AggregationSpec, EncodingSpec
from umim.artifacts.encodings import encode, encoded_infos
from umim.artifacts.tensors import open_safetensors
from umim.artifacts.writer import writing_tensors

ARCHITECTURE = "vit_base_patch16_224"
INPUTS = Path.home() / ".cache/umim/benchmarks/aggregation/inputs"
FORMATS = ("full", "bf16")
DISTINCT = 4
SPARE_BYTES = 4 << 30
"""Disk that must be left: the node's kubelet evicts Pods before the disk is full."""
PROGRESS_SECONDS = 15
LIMIT_SECONDS = 1200
CHECKED = ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.11.mlp.fc2.weight", "norm.bias")

Values = NDArray[np.float64]
Result = dict[str, Any]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.aggregation_pod", description=__doc__)
    parser.add_argument("--updates", type=int, default=64, help="updates to merge, at least 4 (64)")
    parser.add_argument("--memory", default="1Gi", help="memory limit of the Pod (1Gi)")
    parser.add_argument("--encoding", choices=FORMATS, default="full", help="how the updates are written (full)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder for aggregation-pod.json")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; the exit status is 0 when the merge succeeded and its model is right."""
    options = _parser().parse_args(arguments)
    inputs = make_inputs(ARCHITECTURE, DISTINCT, INPUTS)
    with TemporaryDirectory() as folder:
        paths = [_encoded(inputs.parent, path, options.encoding, Path(folder)) for path in inputs.updates]
        size = paths[0].stat().st_size
        needed, free = options.updates * size + SPARE_BYTES, shutil.disk_usage(folder).free
        if free < needed:
            print(f"error: {needed / 1e9:.1f} GB of disk are needed, {free / 1e9:.1f} GB are free", file=sys.stderr)
            return 1
        result = _run(inputs, paths, options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "aggregation-pod.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return 0


def _encoded(parent: Path, update: Path, encoding: str, folder: Path) -> Path:
    """Return an update's file in an encoding."""
    if encoding == "full":
        return update
    path = folder / update.name
    with (
        open_safetensors(parent) as before,
        open_safetensors(update) as after,
        writing_tensors(path, encoded_infos(before.infos, "bf16", 1.0), durable=False) as file,
    ):
        for slot in file.layout.slots:
            change = (after.read(slot.name) - before.read(slot.name)).numpy()
            file.write(slot.name, encode(slot.name, change, "bf16", 1.0)[slot.name])
    return path


def _run(inputs: Inputs, paths: Sequence[Path], options: argparse.Namespace) -> Result:
    progress = Progress()
    platform = bring_up()
    spec = AggregationSpec(encoding=EncodingSpec(format=options.encoding))
    count, size = options.updates, paths[0].stat().st_size
    progress.line(f"committing {count} updates of {ARCHITECTURE}, {count * size / 1e9:.1f} GB as {options.encoding}")
    with committed(platform, inputs.parent, paths, count, ARCHITECTURE, spec) as made:
        progress.line(f"committed; starting an aggregator Pod limited to {options.memory}")
        begin = time.monotonic()
        job = made.launch(1, options.memory)
        peak = _watch(made, job, progress.line)
        took = time.monotonic() - begin
        digest = _digest(made, job)
        with TemporaryDirectory() as folder:
            merged = Path(folder) / contract.MODEL_FILE
            platform.store().download(contract.model_key(digest), merged)
            error = _largest_error(inputs, paths, merged, options)
    progress.line("done, and everything removed")
    return {
        "architecture": ARCHITECTURE,
        "updates": count,
        "encoding": options.encoding,
        "update_bytes": size,
        "memory_limit": options.memory,
        "pod_seconds": round(took, 1),
        "peak_rss_bytes": peak,
        "largest_error": error,
        "model_digest": digest,
    }


def _watch(made: Aggregation, job: str, line: Callable[[str], None]) -> int:
    """Wait for the end of a Job with a line now and then, and return its largest resident set in bytes."""
    begin = told = time.monotonic()
    peak = 0
    while (code := made.exit_code(job)) is None:
        peak = max([peak, *(peak_memory(pod) or 0 for pod in made.pods(job))])
        now = time.monotonic()
        if now - begin > LIMIT_SECONDS:
            raise SystemExit(f"error: not finished in {LIMIT_SECONDS} s\n{made.dump(job)}")
        if now - told > PROGRESS_SECONDS:
            told = now
            line(f"merging; largest resident set so far {peak / 2**20:.0f} MiB")
        time.sleep(0.5)
    if code != 0:
        raise SystemExit(f"error: the aggregator ended with {code}\n{made.dump(job)}")
    return peak


def _digest(made: Aggregation, job: str) -> str:
    result = made.result()
    if result is None or result.model_digest is None or result.exclusions:
        raise SystemExit(f"error: no model of all updates: {result}\n{made.dump(job)}")
    return result.model_digest


def _largest_error(inputs: Inputs, paths: Sequence[Path], merged: Path, options: argparse.Namespace) -> float:
    """Return the largest distance of the merged model from the mean in float64, over some tensors."""
    samples = [samples_of(number) for number in range(options.updates)]
    worst = 0.0
    for name in CHECKED:
        parent = _tensor(inputs.parent, name)
        expected = parent.copy()
        for first, path in enumerate(paths):
            share = sum(samples[first :: len(paths)]) / sum(samples)
            value = _tensor(path, name)
            expected += share * (value - parent if options.encoding == "full" else value)
        worst = max(worst, float(np.abs(_tensor(merged, name) - expected).max()))
    if worst > 1e-6:
        raise SystemExit(f"error: the merged model is {worst} off the mean in float64")
    return worst


def _tensor(path: Path, name: str) -> Values:
    with open_safetensors(path) as reader:
        return np.asarray(reader.read(name).double().numpy(), np.float64)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
