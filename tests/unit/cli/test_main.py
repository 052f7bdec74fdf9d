"""Errors are one sentence on standard error and an exit code; the tool needs no torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from umim.cli.main import app

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: me, user: {}}]
"""


@pytest.fixture
def unreachable(tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    return str(path)


def run(kubeconfig: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run as a process: the client reads KUBECONFIG when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", "from umim.cli.main import app; app()", *arguments],
        env={"KUBECONFIG": kubeconfig, "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_kubeconfig_it_says_what_to_set() -> None:
    done = run("/nonexistent", "rounds", "list")
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "set KUBECONFIG" in done.stderr


def test_an_unreachable_cluster_is_exit_code_69(unreachable: str) -> None:
    done = run(unreachable, "models", "list", "-A")
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert "does not answer" in done.stderr


def test_an_unknown_context_is_a_configuration_error(unreachable: str) -> None:
    done = run(unreachable, "rounds", "list", "--context", "there")
    assert done.returncode == 78
    assert "there" in done.stderr


@pytest.mark.parametrize("arguments", [["rounds", "list", "-o", "yaml"], ["models", "pull"], ["nonsense"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_importing_the_tool_imports_no_torch() -> None:
    code = "import sys, umim.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
