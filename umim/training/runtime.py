"""Where and how tensors are computed: device, precision, threads, determinism."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.utils.deterministic

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Runtime:
    """The device and its precision."""

    device: torch.device
    """cuda or cpu."""
    half: torch.dtype | None
    """Type for automatic mixed precision: bfloat16, float16 (older GPUs), or None on the CPU."""

    def autocast(self) -> torch.autocast:
        """Return the context for the forward pass."""
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a loss scaler; it passes everything through unless the type is float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)

    def generator(self, seed: int) -> torch.Generator:
        """Return a seeded random generator on the device."""
        return torch.Generator(self.device).manual_seed(seed)


def start_runtime(threads: int) -> Runtime:
    """Choose the device and make torch deterministic in this process, with a fixed number of threads.

    Sums depend on the number of threads, so the same update needs the same number. On a GPU, operations without
    a deterministic form only warn: a hospital's training should not fail for them.
    """
    torch.set_num_threads(threads)
    # Filling fresh memory only costs time: nothing reads it before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        torch.use_deterministic_algorithms(True)
        return Runtime(torch.device("cpu"), None)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts, below
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return Runtime(torch.device("cuda"), half)


def thread_count(env: Mapping[str, str], cgroup_root: Path = CGROUP_ROOT) -> int:
    """Return how many CPUs this process may use: OMP_NUM_THREADS, else affinity cut by the cgroup's quota.

    Without the quota a Pod limited to 2 CPUs on a large node would run a thread for each of the node's CPUs.
    """
    fixed = env.get("OMP_NUM_THREADS", "")
    if fixed.isdecimal() and int(fixed) > 0:
        return int(fixed)
    quota = _cgroup_quota(cgroup_root)
    allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the quota in CPUs of cgroup v2 (cpu.max) or v1 (cpu.cfs_*), or None where there is none."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
    except OSError:
        return None  # no cgroup is mounted: affinity alone counts
    return None if quota in ("max", "-1") else int(quota) / int(period)
