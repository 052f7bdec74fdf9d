"""The virtual environment of the checkout: ``python3 -m hack.venv {demo,dev}``.

``demo`` holds the command line tool and what prepares the demo's images, no torch; ``dev`` holds everything.
Nothing is installed when the stamp says that the same requirements are there already.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from hack.cluster.progress import ClusterError, Progress

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
EXTRAS = ("demo", "dev")
"""From the smallest to the largest; a larger one serves for a smaller one."""


def wanted_digest(extra: str) -> str:
    """Return the digest of everything that decides what is installed."""
    digest = hashlib.sha256(f"{extra} {sys.version_info[:2]} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_ready(extra: str) -> bool:
    """Say whether the environment holds the extra, or a larger one, at the wanted versions."""
    larger = EXTRAS[EXTRAS.index(extra) :]
    return any(_stamp(name).exists() and _stamp(name).read_text() == wanted_digest(name) for name in larger)


def install(extra: str, progress: Progress) -> None:
    """Bring the environment up to date. Raises ClusterError with the end of pip's output."""
    if is_ready(extra):
        return
    for name in EXTRAS:
        _stamp(name).unlink(missing_ok=True)
    if not (VENV / "bin/pip").exists():
        with progress.step("Python environment: create"):
            _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    with progress.step(f"Python environment: install umim[{extra}]"):
        pip = [str(VENV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{extra}]"])
    _stamp(extra).write_text(wanted_digest(extra))


def _stamp(extra: str) -> Path:
    return VENV / f".umim-{extra}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ClusterError(
            f"{' '.join(command[:4])} failed; check that the package index is reachable and run again:\n{tail}"
        )


def main(arguments: list[str]) -> int:
    """Install the extra that is named."""
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        print(f"usage: python3 -m hack.venv {{{','.join(EXTRAS)}}}", file=sys.stderr)
        return 2
    try:
        install(arguments[0], Progress())
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
