"""Runs inside an image (`python3 -c`, with modules to import as arguments) and prints facts about it as JSON."""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

IMPORTS = {
    "operator": (
        "kopf",
        "kubernetes",
        "minio",
        "redis",
        "pydantic",
        "opentelemetry.sdk",
        "umim",
        "umim_operator",
        "umim.console.app",
        "umim.console.watching",
    ),
    "trainer": (
        *("timm", "torchvision", "safetensors", "pydicom", "nibabel", "minio", "redis", "pydantic"),
        *("opentelemetry.sdk", "cryptography.hazmat.primitives.asymmetric.ed25519", "umim"),
    ),
}
FORBIDDEN = ("gcc", "g++", "cc", "c++", "clang", "ld", "as", "make", "ninja", "pip", "pip3", "go", "cargo")


def failed_imports(modules: list[str]) -> dict[str, str]:
    """Import each module; return why, for those that cannot be."""
    failed = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            failed[module] = str(error)
    return failed


def matrix_product() -> dict[str, object]:
    """Multiply two 1024 x 1024 float32 matrices; return GFLOP/s, threads and the BLAS that did it."""
    import torch

    left = torch.rand(1024, 1024)
    left @ left
    started = time.perf_counter()
    for _ in range(10):
        left @ left
    seconds = (time.perf_counter() - started) / 10
    maps = Path("/proc/self/maps").read_text()
    kinds = sorted(set(re.findall(r"/(openblas-\w+|blas|atlas|mkl)/lib", maps)))
    return {"blas": kinds, "threads": torch.get_num_threads(), "gflops": round(2 * 1024**3 / seconds / 1e9)}


def main(modules: list[str]) -> dict[str, object]:
    """Return the facts."""
    folders = ("/var/lib/apt/lists", "/var/cache/apt", "/var/cache/pip", "/root/.cache", "/tmp")
    # Looked for before anything is imported: torch makes a temporary file.
    caches = [str(file) for folder in folders for file in Path(folder).rglob("*") if file.is_file()]
    failed = failed_imports(modules)
    torch = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else None
    facts: dict[str, object] = {
        "uid": os.getuid(),
        "python": platform.python_version(),
        "forbidden": [name for name in FORBIDDEN if shutil.which(name)]
        + (["pip"] if importlib.util.find_spec("pip") else []),
        "failed_imports": failed,
        "caches": caches[:5],
        "torch": torch,
    }
    return facts | (matrix_product() if torch else {"blas": []})


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
