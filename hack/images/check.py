"""Run each image and prove what it promises: user, no compiler, no pip, which torch and which BLAS."""

from __future__ import annotations

import json
import os

from hack.images import catalog, probe
from hack.images.buildah import Buildah
from hack.images.catalog import Image, Target
from hack.images.steps import ImageError
from hack.images.workspace import REPO, Workspace, locked

_USER = 65532


def problems(name: str, facts: dict[str, object], target: Target) -> list[str]:
    """Return what is wrong with an image whose probe (probe.py) printed `facts`; nothing when all is well."""
    found = []
    if facts["uid"] != _USER:
        found.append(f"runs as user {facts['uid']}, must be {_USER}")
    if facts["forbidden"]:
        found.append(f"contains {facts['forbidden']}: compilers and pip must not be there")
    if facts["failed_imports"]:
        found.append(f"cannot import {facts['failed_imports']}")
    if facts["caches"]:
        found.append(f"left-over caches: {facts['caches']}")
    if name == "operator" and facts["torch"]:
        found.append(f"contains torch {facts['torch']}")
    if name == "trainer" and not facts["torch"]:
        found.append("contains no torch")
    if name == "trainer" and target == "cpu" and facts["blas"] != ["openblas-openmp"]:
        found.append(
            f"torch uses BLAS {facts['blas']}, must be openblas-openmp: training would be 5 to 20 times slower"
        )
    return found


def check(workspace: Workspace, images: list[Image], tag: str, target: Target) -> None:
    """Probe `images` and print the findings.

    Raises:
        ImageError: an image breaks a promise; the message lists all that were broken.
    """
    buildah = Buildah(workspace, dict(os.environ))
    broken = []
    with locked(workspace):
        for image in images:
            name = catalog.reference(image.name, tag, target)
            container = buildah.run("from", "--pull=never", name).strip()
            try:
                if image.name == "minio":
                    facts = buildah.run("run", container, "--", "/usr/bin/minio", "--version").splitlines()[0]
                    print(f"{name}: {facts}", flush=True)
                    continue
                source = (REPO / "hack/images/probe.py").read_text()
                output = buildah.run(
                    "run", container, "--", "python3", "-c", source, *probe.IMPORTS.get(image.name, ())
                )
                found = json.loads(output)
                print(f"{name}: {json.dumps(found)}", flush=True)
                broken += [f"{name} {problem}" for problem in problems(image.name, found, target)]
            finally:
                buildah.run("rm", container)
        buildah.clean_leftovers()
    if broken:
        raise ImageError("the check found:\n  " + "\n  ".join(broken))
