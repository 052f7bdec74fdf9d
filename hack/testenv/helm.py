"""The real Helm on the cluster."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = dict[str, Any]
TIMEOUT_SECONDS = 300


class HelmError(Exception):
    """Helm failed; the text is what it said."""


@dataclass(frozen=True)
class Helm:
    """Runs Helm with one kubeconfig."""

    binary: Path
    kubeconfig: Path
    charts: Path

    def install(
        self,
        release: str,
        chart: str,
        namespace: str,
        values: Values,
        *,
        keep_values: bool = False,
        wait: bool = False,
        hooks: bool = True,
    ) -> None:
        """Install or upgrade a release; with keep_values, on top of the values that it has."""
        arguments = ["upgrade", "--install", release, str(self.charts / chart), "-n", namespace, "-f", "-"]
        if keep_values:
            arguments.append("--reset-then-reuse-values")
        if not hooks:
            arguments.append("--no-hooks")
        if wait:
            arguments += ["--wait", "--timeout", f"{TIMEOUT_SECONDS}s"]
        self._run(*arguments, stdin=json.dumps(values))

    def uninstall(self, release: str, namespace: str) -> None:
        """Remove a release and wait until what it made is gone; no error where there is none."""
        self._run("uninstall", release, "-n", namespace, "--ignore-not-found", "--wait", "--timeout", "120s")

    def test(self, release: str, namespace: str) -> str:
        """Run `helm test` and return what it prints, with the logs of its Pods. Raises HelmError where a test fails."""
        return self._run("test", release, "-n", namespace, "--logs", "--timeout", "240s")

    def values(self, release: str, namespace: str) -> Values | None:
        """Return the values that the user gave to a release, or None where there is no release."""
        listed = json.loads(self._run("list", "-n", namespace, "-o", "json", "--all", "--filter", f"^{release}$"))
        if not listed:
            return None
        found: Values | None = json.loads(self._run("get", "values", release, "-n", namespace, "-o", "json"))
        return found or {}

    def _run(self, *arguments: str, stdin: str | None = None) -> str:
        command = [str(self.binary), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS + 30
        )
        if done.returncode:
            raise HelmError(f"helm {' '.join(arguments[:3])}: {done.stderr.strip()[-1500:]}")
        return done.stdout
