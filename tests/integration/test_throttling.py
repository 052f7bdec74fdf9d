"""The operator and an API server that has enough of it. On servers of its own, not on the cluster of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 400


def test_rounds_complete_while_the_api_server_rejects_and_no_request_comes_again_too_soon(tmp_path: Path) -> None:
    """The smallest run of the benchmark: it checks every result and every time from a 429 to the next try."""
    command = [sys.executable, "-m", "tests.benchmarks.operator", "--quick", "--only", "throttled"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    row = json.loads((tmp_path / "operator.json").read_text())["loads"]["throttled"]
    assert row["api"]["codes"]["429"] == row["api"]["throttling"]["rejected"] > 0
    assert row["api"]["throttling"]["shortest_wait_s"] >= 1.0
