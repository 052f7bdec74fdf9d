"""Bills of materials: which Debian packages, Python packages and Go modules an image holds, as CycloneDX 1.6 JSON.

Read from the image's own files, so that it says what is there and not what was asked for: dpkg's status, the METADATA
of every dist-info folder, and what `go version -m` prints of the MinIO binary. Format:
https://cyclonedx.org/docs/1.6/json/, names of packages: https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

from hack.cluster.progress import Progress
from hack.images import catalog
from hack.images.buildah import Buildah
from hack.images.catalog import Image, Target
from hack.images.steps import ImageError
from hack.images.workspace import Workspace, locked

DPKG_STATUS = "var/lib/dpkg/status"
PYTHON_FOLDERS = (
    "opt/umim/lib/python3.*/site-packages",
    "usr/lib/python3/dist-packages",
    "usr/lib/python3.*/dist-packages",
)
GO_BINARY = "usr/bin/minio"


@dataclass(frozen=True, order=True)
class Component:
    """One package of an image.

    Attributes:
        purl: its package URL, unique in an image.
        name: name as its own world writes it.
        version: exact version.
        license: what its metadata say of its licence, in words; empty where nothing.
    """

    purl: str
    name: str
    version: str
    license: str = ""


def debian_components(status: str) -> list[Component]:
    """Return the installed packages of dpkg's status file."""
    found = []
    for stanza in re.split(r"\n{2,}", status.strip()):
        fields = HeaderParser().parsestr(stanza)
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version, machine = (str(fields[key]) for key in ("Package", "Version", "Architecture"))
        purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={quote(machine, safe='')}"
        found.append(Component(purl, name, version))
    return sorted(found)


def python_component(metadata: str) -> Component:
    """Return the package of a METADATA file (https://packaging.python.org/specifications/core-metadata/).

    Raises:
        ValueError: it has no name or version.
    """
    fields = HeaderParser().parsestr(metadata)
    name, version = fields.get("Name"), fields.get("Version")
    if not name or not version:
        raise ValueError("a METADATA file needs Name and Version")
    normal = re.sub(r"[-_.]+", "-", name).lower()
    words = str(fields.get("License-Expression") or fields.get("License") or "").strip()
    # Some packages put the licence's whole text there.
    return Component(
        f"pkg:pypi/{normal}@{quote(version, safe='')}", name, version, words if len(words.splitlines()) == 1 else ""
    )


def go_components(output: str) -> list[Component]:
    """Return the modules that `go version -m` names: the program's own, those it depends on, Go's library."""
    found: dict[str, tuple[str, str]] = {}
    last = ""
    for line in output.splitlines():
        kind, *fields = line.split()
        if kind in ("mod", "dep") and len(fields) >= 2:
            last = fields[0]
            found[last] = (fields[0], fields[1])
        elif kind == "=>" and len(fields) >= 2:
            found[last] = (fields[0], fields[1])  # what stands in for the module above
        elif kind.endswith(":") and fields and fields[0].startswith("go"):
            found["stdlib"] = ("stdlib", fields[0].removeprefix("go"))
    return sorted(
        Component(f"pkg:golang/{quote(path, safe='/')}@{quote(version, safe='')}", path, version)
        for path, version in found.values()
    )


def document(reference: str, image_id: str, components: Iterable[Component], created: datetime) -> dict[str, object]:
    """Return the bill of an image as CycloneDX. Equal images give the same serial number."""
    unique = sorted({component.purl: component for component in components}.values())
    name, _, tag = reference.rpartition(":")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, image_id)}",
        "version": 1,
        "metadata": {
            "timestamp": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "container",
                "bom-ref": reference,
                "name": name,
                "version": tag,
                "properties": [{"name": "umim:image-id", "value": image_id}],
            },
        },
        "components": [_entry(component) for component in unique],
    }


def _entry(component: Component) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "library",
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
    }
    return entry | ({"licenses": [{"license": {"name": component.license}}]} if component.license else {})


def installed(root: Path) -> Iterator[Component]:
    """Yield what lies below the root folder of an image.

    Raises:
        ImageError: `go` is missing or cannot read the MinIO binary.
    """
    status = root / DPKG_STATUS
    if status.is_file():
        yield from debian_components(status.read_text())
    for pattern in PYTHON_FOLDERS:
        for path in sorted(root.glob(f"{pattern}/*.dist-info/METADATA")):
            yield python_component(path.read_text(errors="replace"))
    binary = root / GO_BINARY
    if binary.is_file():
        yield from go_components(_go_version(binary))


def _go_version(binary: Path) -> str:
    try:
        done = subprocess.run(["go", "version", "-m", str(binary)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ImageError("`go` is not installed: the modules of the MinIO binary cannot be listed") from error
    if done.returncode != 0:
        raise ImageError(f"`go version -m {binary}` failed: {done.stderr.strip()}")
    return done.stdout


def write(workspace: Workspace, images: list[Image], tag: str, target: Target, folder: Path, now: datetime) -> None:
    """Write the bill of each image to `folder`/<name>.cdx.json.

    Raises:
        ImageError: an image is not built, or holds nothing that is known.
    """
    progress = Progress()
    buildah = Buildah(workspace, dict(os.environ))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(workspace):
        ids = buildah.image_ids()
        for image in images:
            reference = catalog.reference(image.name, tag, target)
            if reference not in ids:
                raise ImageError(f"{reference} is not built: run `python3 -m hack.images build`")
            container = buildah.run("from", "--pull=never", reference).strip()
            try:
                found = list(installed(Path(buildah.run("mount", container).strip())))
            finally:
                buildah.run("rm", container)
            if not found:
                raise ImageError(f"{reference} holds no package that is known: its bill would be empty")
            path = folder / f"{image.name}.cdx.json"
            path.write_text(json.dumps(document(reference, ids[reference], found, now), indent=2) + "\n")
            progress.line(f"images: {path}, {len(found)} packages")
        buildah.clean_leftovers()
