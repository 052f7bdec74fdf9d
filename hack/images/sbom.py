"""Bills of materials: which Debian packages, Python packages and Go modules an image holds, as CycloneDX 1.6 JSON.

Read from the image's own files, so that it says what is there and not what was asked for: dpkg's status, the METADATA
of every dist-info folder, and what `go version -m` prints of the programs of an image without Debian, such as MinIO's.
Format: https://cyclonedx.org/docs/1.6/json/, names of packages: https://github.com/package-url/purl-spec.

A build writes the bill of each image that it delivers; equal images give equal bills, byte for byte.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

from hack.cluster import golang
from hack.cluster.progress import Progress
from hack.images import catalog
from hack.images.buildah import Buildah
from hack.images.catalog import Image, Target
from hack.images.steps import ImageError
from hack.images.workspace import Workspace

DPKG_STATUS = "var/lib/dpkg/status"
PYTHON_FOLDERS = (
    "opt/umim/lib/python3.*/site-packages",
    "usr/lib/python3/dist-packages",
    "usr/lib/python3.*/dist-packages",
)
GO_PROGRAMS = ("usr/bin", "manager")
"""Where programs of Go lie: in a folder, or, Kueue's, at the root."""
IMAGE_ID = "umim:image-id"


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
                "properties": [{"name": IMAGE_ID, "value": image_id}],
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


def installed(root: Path, go: Callable[[], Path]) -> Iterator[Component]:
    """Yield what lies below the root folder of an image. `go` finds the `go` program, where one is needed.

    Raises:
        ImageError: `go` cannot read the image's programs.
    """
    status = root / DPKG_STATUS
    if status.is_file():
        yield from debian_components(status.read_text())
    elif programs := [root / name for name in GO_PROGRAMS if (root / name).exists()]:
        yield from go_components(_go_version(go(), programs))
    for pattern in PYTHON_FOLDERS:
        for path in sorted(root.glob(f"{pattern}/*.dist-info/METADATA")):
            yield python_component(path.read_text(errors="replace"))


def _go_version(go: Path, programs: Sequence[Path]) -> str:
    command = [str(go), "version", "-m", *map(str, programs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def is_of(path: Path, image_id: str) -> bool:
    """Return whether the file is the bill of this very image."""
    try:
        component = json.loads(path.read_text())["metadata"]["component"]
        return {"name": IMAGE_ID, "value": image_id} in component["properties"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def keep(workspace: Workspace, buildah: Buildah, images: list[Image], tag: str, target: Target) -> None:
    """Write the bills of images that have none yet, where the workspace keeps them. Call it with the lock held.

    Raises:
        ImageError: an image is not built, or holds nothing that is known.
    """
    progress = Progress()
    stored = buildah.images()
    for image in images:
        reference = catalog.reference(image.name, tag, target)
        if reference not in stored:
            raise ImageError(f"{reference} is not built: run `python3 -m hack.images build {image.name}`")
        image_id, created = stored[reference]
        path = workspace.bill(reference)
        if is_of(path, image_id):
            continue
        container = buildah.run("from", "--pull=never", reference).strip()
        try:
            root = Path(buildah.run("mount", container).strip())
            found = list(installed(root, lambda: golang.ensure_go(workspace.cache, progress)))
        finally:
            buildah.run("rm", container)
        if not found:
            raise ImageError(f"{reference} holds no package that is known: its bill would be empty")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".new")
        written.write_text(json.dumps(document(reference, image_id, found, created), indent=2) + "\n")
        written.replace(path)
        progress.line(f"images: bill of {reference}, {len(found)} packages")


def copy(workspace: Workspace, images: list[Image], tag: str, target: Target, stem: str) -> None:
    """Copy the bill of each image, built before, to `stem`NAME.cdx.json; the folder is made if need be."""
    for image in images:
        path = Path(f"{stem}{image.name}.cdx.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workspace.bill(catalog.reference(image.name, tag, target)), path)
        print(f"images: {path}", file=sys.stderr, flush=True)
