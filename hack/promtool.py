"""Debian's Prometheus and promtool, unpacked and not installed: the package would start a server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hack.cluster.gotools import locked
from hack.cluster.progress import ClusterError, Progress
from hack.cluster.settings import Paths

PACKAGE = "prometheus"
PROGRAMS = ("prometheus", "promtool")


def ensure(progress: Progress, cache: Path) -> Path:
    """Return the folder with the programs. Raises ClusterError when they cannot be had."""
    folder = cache / "debian" / PACKAGE
    if all((folder / name).exists() for name in PROGRAMS):
        return folder
    with locked(cache / "debian.lock", progress, f"unpacks {PACKAGE}"), progress.step(f"unpacking Debian's {PACKAGE}"):
        if not all((folder / name).exists() for name in PROGRAMS):
            _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    if not shutil.which("apt-get"):
        raise ClusterError(f"this is no Debian (no apt-get), so {PACKAGE} cannot be had; put promtool on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        _download(work)
        (package,) = Path(work).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), f"{work}/root"], check=True)
        for name in PROGRAMS:
            (Path(work) / "root/usr/bin" / name).replace(folder / name)


def _download(work: str) -> None:
    """Fetch the package. apt gives up root for a user that cannot write here: it keeps it."""
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
    if subprocess.run(command, cwd=work, capture_output=True, check=False).returncode == 0:
        return
    # The lists are absent or older than the archive.
    subprocess.run(["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "update"], capture_output=True, check=False)
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"apt-get could not download {PACKAGE}: {done.stderr.strip()}")


def main() -> int:
    """Unpack the programs and print their folder."""
    try:
        print(ensure(Progress(), Paths.from_env(os.environ).cache))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
