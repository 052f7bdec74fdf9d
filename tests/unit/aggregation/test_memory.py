"""Memory of a merge: measured in a process of its own, for few and many sites, small and large models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from umim.artifacts.writer import write_safetensors

MIB = 1 << 20
TENSORS = 4

MEASURED = """
import json, sys
from pathlib import Path
from umim.aggregation.engine import Engine
from umim.aggregation.merge import merge_files
from umim.aggregation.reader import ReceivedUpdate
from umim.aggregation.run import Collected, merge
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import Update
from umim.api.base import ModelReference
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.api.round import AggregationSpec
from umim.artifacts.files import sha256_of
from umim.artifacts.local import LocalStore
from umim.artifacts.sources import MappedSource

def memory(field):
    # Not ru_maxrss: that starts with the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

kind, strategy, sites, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
spec = AggregationSpec(strategy=strategy)
path = folder / "update"
digest = sha256_of(path)
names = [f"site-{number:03}" for number in range(sites)]
start = memory("VmRSS")
if kind == "mapped":
    updates = [Update(name, 1, MappedSource(path), digest) for name in names]
    engine = Engine(MappedSource(folder / "parent"), updates, spec, 2)
    merge_files(make_strategy(spec), engine, folder)
else:
    received = [ReceivedUpdate(name, 1, digest, "update", path.stat().st_size, {}) for name in names]
    config = AggregateJobConfig(
        round_namespace="n", round_name="r", round_uid="u", attempt=1, architecture="vit", image_size=64,
        parent=ModelReference(name="p", digest="0" * 64), aggregation=spec, quorum=1, seed=0,
        updates=[UpdateReference(site=name, attempt=1, digest=digest) for name in names], work_path=str(folder),
    )
    collected = Collected(None, folder / "parent", {}, [], received, [])
    assert merge(LocalStore(folder), config, collected, 2, folder).merged is not None
print(json.dumps(memory("VmHWM") - start))
"""


def model(folder: Path, mebibytes: int) -> None:
    """Write a parent and an update. All sites' updates are this one: what they hold does not matter here."""
    for number, name in enumerate(("parent", "update")):
        values = torch.full((mebibytes * MIB // (4 * TENSORS),), float(number))
        write_safetensors({f"w{one}": values for one in range(TENSORS)}, folder / name)


def grown(kind: str, strategy: str, sites: int, folder: Path) -> int:
    """Return by how many bytes the peak of a process rises in a merge."""
    command = [sys.executable, "-c", MEASURED, kind, strategy, str(sites), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("kind", "strategy", "most"),
    [
        ("mapped", "fedavg", 256 * MIB),
        ("mapped", "krum", 256 * MIB),
        ("store", "fedavg", 512 * MIB),
        ("store", "krum", 512 * MIB),
    ],
)
def test_memory_is_bounded_whatever_the_number_of_sites_and_the_size_of_the_model(
    kind: str, strategy: str, most: int, tmp_path: Path
) -> None:
    # Of mapped files what is not unmapped yet, a few slices of 8 MiB, and what is made of them; from the store the
    # slices and RANGES_BYTES, 128 MiB, as they were read, and what malloc keeps of earlier ones. Nothing of that grows
    # with the model: 32 updates of 64 MiB are 2 GiB.
    found = {}
    for mebibytes, sites in ((16, 4), (64, 4), (64, 32)):
        model(tmp_path, mebibytes)
        found[mebibytes, sites] = grown(kind, strategy, sites, tmp_path)
    assert max(found.values()) <= most, found
