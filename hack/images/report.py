"""Tables: which images there are, and how big."""

from __future__ import annotations

import os

from hack.images import catalog
from hack.images.archive import Layer, stored_images
from hack.images.buildah import Buildah
from hack.images.catalog import Target
from hack.images.stamp import read_stamp
from hack.images.steps import ImageError
from hack.images.workspace import Workspace


def table(rows: list[list[str]]) -> str:
    """Return rows as aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def size_rows(layers: dict[str, tuple[Layer, ...]]) -> list[list[str]]:
    """Return the sizes table in MB: whole image, what no other listed image shares, the last layer with content."""
    rows = [["IMAGE", "SIZE MB", "OWN MB", "LAST LAYER MB"]]
    for name, own in layers.items():
        others = {layer.digest for other, theirs in layers.items() if other != name for layer in theirs}
        sizes = [layer.size for layer in own]
        alone = sum(layer.size for layer in own if layer.digest not in others)
        rows.append([name, *(f"{size / 1e6:.1f}" for size in (sum(sizes), alone, sizes[-1] if sizes else 0))])
    distinct = {layer.digest: layer.size for own in layers.values() for layer in own}
    rows.append(["all, each layer once", f"{sum(distinct.values()) / 1e6:.1f}", "", ""])
    return rows


def print_sizes(workspace: Workspace, tag: str, target: Target) -> None:
    """Print the sizes of the built images that a cluster runs.

    Raises:
        ImageError: none is built.
    """
    names = [catalog.reference(image.name, tag, target) for image in catalog.IMAGES if image.delivered]
    ids = Buildah(workspace, dict(os.environ)).image_ids()
    built = [name for name in names if name in ids]
    if not built:
        raise ImageError(f"no image with the tag of {names[0]} is built: run `python3 -m hack.images build`")
    stored = stored_images(workspace.storage / "root", built)
    print(table(size_rows({image.reference: image.layers for image in stored})))


def print_list(workspace: Workspace, tag: str, target: Target) -> None:
    """Print every image: its full names, whether it is built, how long that took."""
    rows = [["IMAGE", "BUILT UPON", "CLUSTER RUNS IT", "LAST BUILD"]]
    for image in catalog.IMAGES:
        names = catalog.references(image, tag, target)
        stamp = read_stamp(workspace.stamp(names[0]))
        upon = ", ".join(parent for _, parent in image.parents) or "-"
        took = f"{stamp.seconds} s" if stamp else "not built"
        runs = "yes" if image.delivered else "by name" if image.optional else "no"
        rows.append([" = ".join(names), upon, runs, took])
    print(table(rows))
