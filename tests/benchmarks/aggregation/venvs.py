"""The peers' virtual environments: their newest releases, each in its own, made once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "flwr": ("flwr", "safetensors"),
    "nvflare": ("nvflare", "torch", "safetensors"),
    "openfl": ("openfl", "safetensors"),
}
SHOWN = frozenset({"flwr", "nvflare", "openfl", "numpy", "torch", "safetensors"})


@dataclass(frozen=True)
class Environment:
    """A peer's environment."""

    python: Path
    """Its interpreter."""
    versions: Mapping[str, str]
    """Versions of the packages that matter here. Empty when it could not be made."""
    problem: str = ""
    """Why it could not be made."""


def make_environment(peer: str, folder: Path) -> Environment:
    """Make a peer's environment, or return it as it was made. To update to newer releases, delete it."""
    place = folder / peer
    python, stamp = place / "bin/python", place / "versions.json"
    if not stamp.exists():
        print(f"{peer}: installing {', '.join(PACKAGES[peer])} to {place}", flush=True)
        problem = _run(sys.executable, "-m", "venv", "--clear", str(place)) or _run(
            str(python), "-m", "pip", "install", "--quiet", *PACKAGES[peer]
        )
        if problem:
            print(f"{peer}: could not be installed: {problem}", flush=True)
            return Environment(python, {}, problem)
        stamp.write_text(json.dumps(_versions(python)))
    return Environment(python, json.loads(stamp.read_text()))


def _versions(python: Path) -> dict[str, str]:
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {one["name"].lower(): one["version"] for one in found if one["name"].lower() in SHOWN}


def _run(*command: str) -> str:
    """Run a command and return the last line that it wrote when it failed, else nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")
