"""Which images there are, what each is built from, and how they are named. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Target = Literal["cpu", "gpu"]

REPOSITORY = "localhost/umim"
_CODE = ("pyproject.toml", "README.md", "umim", "operator")
_BUILD_TOOLS = tuple(f"images/builder/{name}" for name in ("pip-install", "build-wheel", "requirements.py"))


@dataclass(frozen=True)
class Image:
    """One image: `images/<name>/Containerfile` and what its build needs.

    Attributes:
        name: last part of the image's name and the folder of its Containerfile.
        parents: build argument and image name of each image it starts from; built before it.
        inputs: files and folders of the repository that its build context holds.
        made: file of the build context that a tool makes (`rootfs.tar`, `minio`, `kueue`), if any.
        aliases: further names of the very same image.
        delivered: whether every cluster runs it.
        optional: whether a cluster runs it where it is asked for by name. The others are only built upon.
        gpu: whether `--target gpu` makes another image of it.
    """

    name: str
    parents: tuple[tuple[str, str], ...] = ()
    inputs: tuple[str, ...] = ()
    made: str | None = None
    aliases: tuple[str, ...] = ()
    delivered: bool = False
    optional: bool = False
    gpu: bool = False

    @property
    def containerfile(self) -> str:
        """Path of the Containerfile in the repository."""
        return f"images/{self.name}/Containerfile"


IMAGES: tuple[Image, ...] = (
    Image("rootfs", made="rootfs.tar"),
    Image("base", parents=(("BASE_IMAGE", "rootfs"),)),
    Image("builder", parents=(("BASE_IMAGE", "base"),), inputs=_BUILD_TOOLS),
    Image("wheel", parents=(("BUILDER_IMAGE", "builder"),), inputs=_CODE),
    Image(
        "operator",
        parents=(("BASE_IMAGE", "base"), ("WHEEL_IMAGE", "wheel")),
        inputs=("constraints.txt",),
        delivered=True,
    ),
    Image("redis", parents=(("BASE_IMAGE", "base"),), delivered=True),
    Image(
        "torch",
        parents=(("BASE_IMAGE", "base"), ("BUILDER_IMAGE", "builder")),
        inputs=("images/torch/gpu-requirements.txt",),
        gpu=True,
    ),
    Image(
        "trainer",
        parents=(("BASE_IMAGE", "torch"), ("WHEEL_IMAGE", "wheel")),
        inputs=("constraints.txt",),
        aliases=("aggregator",),
        delivered=True,
        gpu=True,
    ),
    Image("minio", parents=(("BASE_IMAGE", "base"),), made="minio", delivered=True),
    # For the tests of queues alone, which ask for it by name: a cluster of a user has a Kueue of its own.
    Image("kueue", made="kueue", optional=True),
    Image("collector", parents=(("BASE_IMAGE", "base"),), made="otelcol", optional=True),
    Image("prometheus", parents=(("BASE_IMAGE", "base"),), optional=True),
    Image("jaeger", parents=(("BASE_IMAGE", "base"),), made="jaeger", optional=True),
)
TELEMETRY = ("collector", "prometheus", "jaeger")
"""What `make demo TELEMETRY=1` adds."""
_BY_NAME = {name: image for image in IMAGES for name in (image.name, *image.aliases)}


def find(name: str) -> Image:
    """Return the image called `name` (an alias counts).

    Raises:
        ValueError: there is no such image; the message lists those there are.
    """
    if name not in _BY_NAME:
        raise ValueError(f"no image is called {name!r}; there are {', '.join(sorted(_BY_NAME))}")
    return _BY_NAME[name]


def reference(name: str, tag: str, target: Target) -> str:
    """Return the full name of an image, such as `localhost/umim/trainer:dev` or, for the GPU, `...:dev-gpu`."""
    suffix = "-gpu" if target == "gpu" and find(name).gpu else ""
    return f"{REPOSITORY}/{name}:{tag}{suffix}"


def references(image: Image, tag: str, target: Target) -> list[str]:
    """Return every full name of `image`, its own first."""
    return [reference(name, tag, target) for name in (image.name, *image.aliases)]


def delivered(names: list[str], target: Target) -> list[Image]:
    """Return the images that `names` asks for; without names, those that a cluster runs with this target."""
    if names:
        return list(dict.fromkeys(find(name) for name in names))
    return [image for image in IMAGES if image.delivered and (image.gpu or target == "cpu")]


def build_order(wanted: list[Image]) -> list[Image]:
    """Return `wanted` and everything it is built upon, parents first, in the catalogue's order."""
    needed = set(wanted)
    for image in reversed(IMAGES):
        if image in needed:
            needed.update(find(parent) for _, parent in image.parents)
    return [image for image in IMAGES if image in needed]
