"""Installs the Debian packages that are missing."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hack.cluster.progress import ClusterError, Progress

LOCK = Path("/run/umim-apt.lock")

CLUSTER_PACKAGES = (
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "iproute2",
    "iptables",
    "kmod",
    "mount",
    "runc",
)


def parse_installed(text: str) -> set[str]:
    """Package names from `dpkg-query -W -f '${Package} ${db:Status-Status}\\n'` that are installed."""
    return {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Which of the packages are not installed. Raises ClusterError where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        raise ClusterError(
            f"this is no Debian (no dpkg-query), so {', '.join(packages)} cannot be installed; "
            "use a cluster of your own (CLUSTER=current)"
        )
    run = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *packages],
        capture_output=True,
        text=True,
        check=False,  # it fails when a package is unknown, and still lists the others
    )
    installed = parse_installed(run.stdout)
    return [package for package in packages if package not in installed]


def ensure_packages(packages: Sequence[str], progress: Progress) -> None:
    """apt-get install what is missing. Raises ClusterError when that fails."""
    if not missing_packages(packages):
        return
    # apt-get update fails at once where another apt-get runs, so two of ours (cluster and images) take turns.
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install_missing(missing_packages(packages), progress)


def _install_missing(missing: Sequence[str], progress: Progress) -> None:
    if not missing:
        return
    with progress.step(f"installing Debian packages: {' '.join(missing)}"):
        if not _install(missing):
            # The lists are absent or older than the archive.
            _apt("update")
            if not _install(missing):
                raise ClusterError(
                    f"apt-get could not install {' '.join(missing)}; run "
                    f"'apt-get update && apt-get install {' '.join(missing)}' to see why."
                )


def _install(packages: Sequence[str]) -> bool:
    return _apt("install", "--no-install-recommends", *packages)


def _apt(*arguments: str) -> bool:
    """Run apt-get. RUNLEVEL=1 keeps Debian's own containerd service from being started."""
    run = subprocess.run(
        ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"},
        capture_output=True,
        check=False,
    )
    return run.returncode == 0
