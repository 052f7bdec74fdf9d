"""Prepares the demonstration's images on this machine, once: deterministic files in the cache, one folder a site."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hack.demo import pictures, sites
from hack.demo.sites import SITES, Folders, Site
from hack.demo.sources import PACKAGES, unpacked


@dataclass(frozen=True)
class Prepared:
    """A site's images, ready to be copied into its volume."""

    site: Site
    """Whose images they are."""
    folder: Path
    """Where they lie."""
    images: int
    """How many there are."""
    digest: str
    """sha256 over the names and bytes of all files, in hexadecimal."""


def prepare(cache: Path) -> list[Prepared]:
    """Return every site's images, made if they are not in the cache. Raises DemoError when a download fails."""
    root = cache / "demo-data"
    folders = {package: unpacked(package, root / "packages") for package in PACKAGES}
    target = root / f"prepared-{recipe_digest()}"
    return [prepare_site(site, folders, target) for site in SITES]


def recipe_digest() -> str:
    """Return a digest of the pinned packages and of the code that cuts them: another one means other images."""
    parts = [package.sha256 for package in PACKAGES] + [inspect.getsource(module) for module in (sites, pictures)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def prepare_site(site: Site, folders: Folders, target: Path) -> Prepared:
    """Return one site's images, made in a temporary folder and renamed when complete."""
    final = target / site.namespace
    marker = target / f"{site.namespace}.json"
    if not marker.is_file():
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            out = Path(scratch) / "images"
            out.mkdir()
            images = site.prepare(folders, out)
            out.rename(final)
        marker.write_text(json.dumps({"images": images, "digest": folder_digest(final)}))
    found = json.loads(marker.read_text())
    return Prepared(site, final, found["images"], found["digest"])


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the names and bytes of all files below a folder, sorted by name."""
    digest = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
