"""Runs the real Helm on our charts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hack import render

NAMESPACES = {"umim": "umim-system", "umim-hospital": "hospital-a"}
MINIMAL = {
    "umim": ("minio.enabled=true",),
    "umim-hospital": ("hospital.data.format=dicom",),
}
"""The fewest values that a chart renders with."""


class Loader(yaml.SafeLoader):
    """Reads 1e-05 as a number, as Helm and Kubernetes do: to YAML 1.1 it is a text, for want of a point."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+e[-+][0-9]+$"), list("-0123456789"))


class Helm:
    """Runs Helm on one of our charts."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.binary), *arguments, "--kube-version", render.KUBE_VERSION]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def template(self, chart: str, *sets: str, json: Sequence[str] = (), values: Path | None = None) -> list[Any]:
        """Return the rendered documents. sets and json: as in --set and --set-json, on top of MINIMAL or values."""
        result = self._template(chart, sets, json, values)
        assert result.returncode == 0, result.stderr
        return [document for document in yaml.load_all(result.stdout, Loader) if document]

    def refusal(self, chart: str, *sets: str, json: Sequence[str] = (), minimal: bool = True) -> str:
        """Return the message with which Helm refuses values."""
        result = self._template(chart, sets, json, None, minimal=minimal)
        assert result.returncode != 0, "Helm accepted the values"
        return result.stderr

    def _template(
        self, chart: str, sets: Sequence[str], json: Sequence[str], values: Path | None, *, minimal: bool = True
    ) -> subprocess.CompletedProcess[str]:
        arguments = ["template", "umim", str(render.CHARTS / chart), "--namespace", NAMESPACES[chart]]
        if values is not None:
            arguments += ["--values", str(values)]
        for item in (*(MINIMAL[chart] if minimal and values is None else ()), *sets):
            arguments += ["--set", item]
        for item in json:
            arguments += ["--set-json", item]
        return self.run(*arguments)
