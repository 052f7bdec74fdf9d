"""How a Job's process ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WRAPPER = """
import sys
from pathlib import Path
from umim.entrypoints.runner import run_job
from umim.errors import ConfigError, StoreError

def main(env):
    {body}

sys.exit(run_job(main, "test-job", {{}}, Path(sys.argv[1])))
"""


def start(body: str, log: Path) -> subprocess.Popen[str]:
    code = WRAPPER.format(body=body)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, str(log)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("pass", 0, None),
        ("raise ConfigError('spec.x is wrong')", 78, "spec.x is wrong"),
        ("raise StoreError('no answer')", 75, "no answer"),
        ("raise RuntimeError('Jane Doe')", 70, "RuntimeError: the Job met a defect"),
        ("raise ConfigError('ä' * 5000)", 78, "ä" * 1024),
    ],
)
def test_the_exit_code_and_the_termination_message_tell_why(
    tmp_path: Path, body: str, code: int, message: str | None
) -> None:
    log = tmp_path / "termination-log"
    process = start(body, log)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if message is None:
        assert not log.exists()
    else:
        assert log.read_text().startswith(message)
        assert "Jane" not in log.read_text(), "text of an unforeseen error may name a patient"
        assert json.loads(errors.splitlines()[-1])["level"] == "ERROR"


def test_without_a_termination_log_the_exit_code_stays(tmp_path: Path) -> None:
    process = start("raise ConfigError('wrong')", tmp_path / "no-folder" / "log")
    process.communicate(timeout=60)
    assert process.returncode == 78


def test_sigterm_ends_the_job_with_143(tmp_path: Path) -> None:
    with start("print('ready', flush=True); sys.stdin.read()", tmp_path / "log") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
