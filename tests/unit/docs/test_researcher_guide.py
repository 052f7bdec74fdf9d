"""docs/researcher-guide.md: its package installs, its round runs, its strategy does what it says."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hack.testenv.images import write_textures
from tests.unit.docs.pages import DOCS, blocks

PAGE = "researcher-guide.md"
NAMES = "import sys; from umim.aggregation.names import STRATEGIES, check_strategy"
KNOWN = "from umim.api.round import AggregationSpec; check_strategy(AggregationSpec(strategy='agreement'))"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the page as a researcher has it, and ``tree`` with the installed package."""
    folder = tmp_path_factory.mktemp("researcher")
    (code,), (metadata,), (resources,) = (blocks(PAGE, language) for language in ("python", "toml", "yaml"))
    (folder / "agreement").mkdir()
    (folder / "agreement/umim_agreement.py").write_text(code)
    (folder / "agreement/pyproject.toml").write_text(metadata)
    (folder / "round.yaml").write_text(resources)
    command = blocks(PAGE, "sh")[1].strip()
    assert command == "pip install --no-deps --target tree ./agreement"
    # Without the network: the build backend is the one that is here.
    offline = ["--quiet", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", *shlex.split(command), *offline], cwd=folder, check=True)
    return folder


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project / "tree"), str(DOCS.parent), str(DOCS.parent / "operator")])
    around = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=around, capture_output=True, text=True, check=False
    )


def agreement() -> Any:
    known: dict[str, Any] = {"__name__": "umim_agreement"}
    exec(blocks(PAGE, "python")[0], known)
    return known["Agreement"]()


def test_the_strategy_has_about_thirty_lines() -> None:
    assert len([line for line in blocks(PAGE, "python")[0].splitlines() if line.strip()]) <= 30


def test_the_round_of_the_page_runs_in_the_simulation_and_names_strategy_and_package(project: Path) -> None:
    for seed, letter in enumerate("ab"):
        write_textures(project / f"data/hospital-{letter}/images/images.npz", 16, seed)
    command = shlex.split(blocks(PAGE, "sh")[0].splitlines()[1])
    assert command[:2] == ["umim", "simulate"]
    done = run(project, "-c", "from umim.cli.main import app; app()", *command[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    newest = json.loads((project / "run-1/result.json").read_text())["rounds"][-1]["models"][-1]["spec"]
    assert newest["strategy"] == "agreement"
    manifest = project / f"run-1/models/sha256/{newest['digest'].removeprefix('sha256:')}/manifest.json"
    assert json.loads(manifest.read_text())["software"]["umim-agreement"] == "0.1.0"


def test_an_operator_with_the_package_accepts_the_name_and_loads_neither_code_nor_numpy(project: Path) -> None:
    code = f"{NAMES}; {KNOWN}; sys.exit(bool({{'numpy', 'umim_agreement'}} & set(sys.modules)))"
    assert run(project, "-c", code).returncode == 0


def test_an_operator_without_the_package_refuses_the_name(tmp_path: Path) -> None:
    done = run(tmp_path, "-c", f"{NAMES}; {KNOWN}")
    assert "spec.aggregation.strategy: 'agreement' is unknown" in done.stderr


def test_a_change_against_the_mean_does_not_count_and_one_along_it_counts_by_its_share() -> None:
    changes = np.array([[1.0, 0.0], [2.0, 0.0], [-0.5, 0.0]])
    cohort = SimpleNamespace(shares=(0.5, 0.25, 0.25), gram=lambda: changes @ changes.T)
    assert agreement().plan(cohort).coefficients == pytest.approx((2 / 3, 1 / 3, 0))


def test_changes_that_cancel_are_merged_by_their_shares() -> None:
    changes = np.array([[1.0], [-1.0]])
    cohort = SimpleNamespace(shares=(0.5, 0.5), gram=lambda: changes @ changes.T)
    assert agreement().plan(cohort).coefficients == (0.5, 0.5)
