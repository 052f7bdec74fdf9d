"""Finds a Go toolchain that is new enough, or gets one from the distribution and the module proxy."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hack.cluster import debian
from hack.cluster.progress import ClusterError, Progress

MINIMUM = (1, 24)
"""What the pinned modules' go.mod files ask for."""
TOOLCHAIN = "golang.org/toolchain@v0.0.1-go1.24.11.linux-amd64"
"""The toolchain as a Go module: any older Go can download and verify it."""
EMPTY_GO_MOD = "module umim.invalid/toolchain\n"


def build_env(env: Mapping[str, str]) -> dict[str, str]:
    """Environment for a reproducible static build.

    GOGC: the compiler spends a fifth of its time collecting garbage; memory is the cheaper resource here.
    """
    kept = {key: value for key, value in env.items() if key not in ("GOFLAGS", "GOWORK", "GOOS", "GOARCH")}
    return kept | {"CGO_ENABLED": "0", "GOWORK": "off", "GOTOOLCHAIN": "local", "GOGC": "400"}


def parse_version(text: str) -> tuple[int, int] | None:
    """(major, minor) from the output of `go version`, or None."""
    match = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _is_enough(go: str | Path | None) -> bool:
    if go is None:
        return False
    run = subprocess.run([go, "version"], capture_output=True, text=True, check=False)
    version = parse_version(run.stdout)
    return run.returncode == 0 and version is not None and version >= MINIMUM


def ensure_go(cache: Path, progress: Progress) -> Path:
    """Path of a `go` program of at least MINIMUM. Raises ClusterError when none can be had."""
    found = shutil.which("go")
    if found and _is_enough(found):
        return Path(found)
    kept = cache / "go" / TOOLCHAIN.split("@")[1]
    link = kept / "root"
    if not _is_enough(link / "bin/go" if (link / "bin/go").exists() else None):
        if not found:
            debian.ensure_packages(("golang-go", "ca-certificates"), progress)
            found = shutil.which("go")
        with progress.step("downloading a Go toolchain from the module proxy"):
            root = _download(Path(found or "/usr/bin/go"), kept)
        link.unlink(missing_ok=True)
        link.symlink_to(root)
    return link / "bin/go"


def _download(go: Path, folder: Path) -> Path:
    """Download the toolchain module and make its programs executable; return its root."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(EMPTY_GO_MOD)
    run = subprocess.run(
        [go, "mod", "download", "-json", TOOLCHAIN],
        cwd=folder,
        env={**os.environ, "GOFLAGS": "", "GO111MODULE": "on"},
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(run.stdout) if run.returncode == 0 else {}
    if "Dir" not in answer:
        reason = answer.get("Error") or run.stderr.strip()
        raise ClusterError(
            f"no Go {MINIMUM[0]}.{MINIMUM[1]} or newer: {go} could not download {TOOLCHAIN} ({reason}). "
            "Install Go 1.24 or newer and put it on PATH."
        )
    root = Path(answer["Dir"])
    # Module archives carry no executable bits.
    for program in [*(root / "bin").iterdir(), *(root / "pkg/tool").rglob("*")]:
        if program.is_file():
            program.parent.chmod(0o755)
            program.chmod(0o755)
    return root
