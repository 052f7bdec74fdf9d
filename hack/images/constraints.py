"""Resolve `constraints.txt`: one set of versions for developers and images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from hack.images.steps import ImageError
from hack.images.workspace import REPO

EXTRAS = ("operator", "cli", "train", "dev")
# The versions of Debian trixie: the CPU images use Debian's builds, which share OpenBLAS with Debian's torch.
DEBIAN = {"numpy": "2.2.4", "pillow": "11.1.0"}
# Left to whichever torch is installed: Debian's in the CPU images, PyPI's elsewhere.
_TORCH = re.compile(
    r"umim|torch|torchvision|triton|nvidia-.*|cuda-.*|setuptools|sympy|mpmath|networkx|jinja2|markupsafe"
)
HEADER = """\
# Versions for developers (`pip install -c constraints.txt`) and images. Made by `python3 -m hack.images constraints`.
# torch and what only torch needs are not listed: the CPU images have Debian's torch, everything else PyPI's.
# numpy and pillow are at Debian trixie's versions, so that the CPU images use Debian's builds.
"""


def render(report: dict[str, object]) -> str:
    """Return the text of constraints.txt for pip's installation report (`pip install --report`, version 1).

    Raises:
        ValueError: the report is of another version.
    """
    if report.get("version") != "1" or not isinstance(report["install"], list):
        raise ValueError(f"pip's report has version {report.get('version')!r}; this code reads version '1'")
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    lines = [f"{name}=={found[name]}\n" for name in found if not _TORCH.fullmatch(name.lower())]
    return HEADER + "".join(sorted(lines, key=str.lower))


def write() -> None:
    """Ask pip for the newest versions that fit pyproject.toml and write constraints.txt; takes about a minute.

    Raises:
        ImageError: pip found no versions that fit; its message is on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        print("images: resolving the versions of all extras, about a minute", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        fixed = Path(folder, "debian.txt")
        fixed.write_text("".join(f"{name}=={version}\n" for name, version in DEBIAN.items()))
        report = Path(folder, "report.json")
        command = [f"{folder}/bin/pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--constraint", str(fixed), "--report", str(report), f"{REPO}[{','.join(EXTRAS)}]"]
        if subprocess.run(command, check=False).returncode != 0:
            raise ImageError("pip could not resolve pyproject.toml's requirements; its message is above")
        text = render(json.loads(report.read_text()))
    (REPO / "constraints.txt").write_text(text)
