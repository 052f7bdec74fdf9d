"""What the shell offers at TAB: names of the cluster where it answers in time, else nothing, never an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from umim.cli.kube import TIMEOUT_SECONDS
from umim.cli.main import app

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts:
  - {{name: here, context: {{cluster: here, user: me, namespace: own}}}}
  - {{name: there, context: {{cluster: here, user: me}}}}
clusters: [{{name: here, cluster: {{server: "{url}"}}}}]
users: [{{name: me, user: {{}}}}]
"""
LISTS = {
    "/apis/umim.dev/v1alpha1/namespaces/own/federationrounds": ["stage-1", "stage-2", "other"],
    "/apis/umim.dev/v1alpha1/namespaces/theirs/federationrounds": ["theirs-1"],
    "/apis/umim.dev/v1alpha1/namespaces/own/globalmodels": ["model-1"],
    "/api/v1/namespaces": ["own", "theirs"],
}


class Handler(BaseHTTPRequestHandler):
    """Answers lists of names. What it has no list for, it answers when the test is over."""

    over = threading.Event()
    asked = 0.0
    """When such a question came."""

    def do_GET(self) -> None:
        names = LISTS.get(self.path.split("?")[0])
        if names is None:
            Handler.asked = time.monotonic()
            self.over.wait(60)
            return
        items = [{"metadata": {"name": name, "namespace": "own"}} for name in names]
        body = json.dumps({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an API server that knows a few names."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        Handler.over.set()
        found.shutdown()


def offered(folder: Path, url: str, line: str) -> list[str]:
    """What bash offers at the end of the line, which must be all that is printed."""
    (folder / "kubeconfig").write_text(KUBECONFIG.format(url=url))
    words = {"_UMIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from umim.cli.main import app; app(prog_name='umim')"],
        env={**os.environ, **words, "KUBECONFIG": str(folder / "kubeconfig")},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("umim rounds describe ", ["stage-1", "stage-2", "other"]),
        ("umim rounds watch sta", ["stage-1", "stage-2"]),
        ("umim rounds describe -n theirs ", ["theirs-1"]),
        ("umim models pull ", ["model-1"]),
        ("umim rounds list -n ", ["own", "theirs"]),
        ("umim rounds list --context t", ["there"]),
    ],
)
def test_names_of_the_cluster_are_offered(server: str, tmp_path: Path, line: str, names: list[str]) -> None:
    assert sorted(offered(tmp_path, server, line)) == sorted(names)


def test_a_cluster_that_is_not_there_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert offered(tmp_path, "http://127.0.0.1:9", "umim rounds describe ") == []


def test_a_cluster_that_does_not_answer_is_not_waited_for(server: str, tmp_path: Path) -> None:
    assert offered(tmp_path, server, "umim federations describe ") == []
    assert time.monotonic() - Handler.asked < TIMEOUT_SECONDS[1] / 2


def test_every_argument_that_names_a_resource_and_every_namespace_completes() -> None:
    groups: dict[str, Any] = getattr(get_command(app), "commands", {})
    count = 0
    for name in ("federations", "hospitals", "models", "rounds"):
        for command in groups[name].commands.values():
            for parameter in command.params:
                if parameter.name in ("name", "namespace", "context", "operator_namespace"):
                    assert parameter._custom_shell_complete is not None, (name, command.name, parameter.name)
                    count += 1
    assert count > 20
