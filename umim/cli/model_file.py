"""Finds the model to judge: a file or folder here, or a GlobalModel in the cluster. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.artifacts.files import sha256_of
from umim.artifacts.manifests import parse_manifest
from umim.errors import ArtifactError, ConfigError, NotFoundError


@dataclass(frozen=True)
class ModelFile:
    """A model's tensors on the local disk."""

    path: Path
    """The safetensors file."""
    digest: str
    """Its sha256."""
    architecture: str
    """timm name of the encoder."""
    image_size: int
    """Side of the square input in pixels."""


def names_a_file(model: str) -> bool:
    """Whether MODEL means a file or folder: it exists here, or cannot be the name of a resource."""
    return Path(model).exists() or "/" in model or model.endswith(".safetensors")


def local_model(model: str, architecture: str | None, image_size: int | None) -> ModelFile:
    """Return a local model: a safetensors file, or a folder with model.safetensors as ``umim models pull`` writes.

    A manifest.json beside it that names the file's digest says architecture and image size; without one both must
    be given. Raises NotFoundError, ConfigError for the options, ArtifactError for a file that its manifest denies.
    """
    path = Path(model) / contract.MODEL_FILE if Path(model).is_dir() else Path(model)
    if not path.is_file():
        raise NotFoundError(
            f"{path} does not exist: give a safetensors file, a folder with {contract.MODEL_FILE} or the name of a "
            "GlobalModel"
        )
    digest = sha256_of(path)
    beside = path.with_name(contract.MANIFEST_FILE)
    if not beside.is_file():
        if architecture is None or image_size is None:
            raise ConfigError(
                f"{path} has no {contract.MANIFEST_FILE} beside it: say what it is with --architecture and --image-size"
            )
        return ModelFile(path, digest, architecture, image_size)
    manifest = parse_manifest(ModelManifest, beside.read_bytes(), str(beside))
    if manifest.file.digest != digest:
        raise ArtifactError(
            f"{path} has sha256 {digest}, {beside} says {manifest.file.digest}: fetch the model anew, or remove the "
            "manifest when it belongs to another file"
        )
    return described(path, manifest, architecture, image_size)


def described(path: Path, manifest: ModelManifest, architecture: str | None, image_size: int | None) -> ModelFile:
    """Return a model of which there is a manifest. Raises ConfigError for options that contradict it."""
    for option, given, found in (
        ("--architecture", architecture, manifest.architecture),
        ("--image-size", image_size, manifest.image_size),
    ):
        if given is not None and given != found:
            raise ConfigError(f"{option} is {given} but the model's manifest says {found}: leave the option out")
    return ModelFile(path, manifest.file.digest, manifest.architecture, manifest.image_size)
