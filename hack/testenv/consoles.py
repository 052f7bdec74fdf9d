"""The deployed console as a person reaches it: by kubectl port-forward."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.testenv.platform import SYSTEM

SERVICE = "service/umim-console"
_LISTENS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextmanager
def forwarded(kubectl: Path, kubeconfig: Path, namespace: str = SYSTEM) -> Iterator[str]:
    """Forward a free port to the console and give its address. Raises RuntimeError with kubectl's own words."""
    command = [str(kubectl), "--kubeconfig", str(kubeconfig), "-n", namespace, "port-forward", SERVICE, ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            match = _LISTENS.match(first)
            if match is None:
                raise RuntimeError(f"kubectl port-forward {SERVICE}: {first}{process.stdout.read()}")
            yield f"http://localhost:{match[1]}"
        finally:
            process.terminate()
