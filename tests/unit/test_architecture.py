"""Rules about the code itself: which way imports point, and what is never used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "numpy", "safetensors", "PIL", "pydicom", "nibabel")


def run(code: str) -> str:
    """Run code in a fresh interpreter at the repository's root; return what it printed."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_point_the_way_that_the_contracts_say() -> None:
    # In a process of its own: the linter's logging configuration disables the loggers of this one.
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_loads_neither_torch_nor_numpy_nor_an_image_library() -> None:
    code = f"import sys, umim_operator.handlers; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code) == "[]"


def test_the_planner_and_the_builders_load_no_client_of_a_network_service() -> None:
    code = (
        "import sys, umim_operator.planner, umim_operator.builders; "
        "print([name for name in ('kopf', 'kubernetes', 'minio', 'redis', 'torch') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_api_models_load_nothing_but_pydantic() -> None:
    code = (
        "import sys, umim.api.round, umim.api.artifacts, umim.api.jobs, umim.contract; "
        "print([name for name in ('yaml', 'minio', 'redis', 'opentelemetry', 'torch') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_operator_folder_is_no_package_because_the_standard_library_has_one_of_that_name() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
