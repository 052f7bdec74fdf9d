"""A model that rounds of the tests start from: it saves them the Job that makes one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from hack.testenv.api import Api
from hack.testenv.images import SIDE
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import ARCHITECTURE
from umim.api.artifacts import ModelManifest
from umim.api.globalmodel import GlobalModelSpec, RoundReference
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.models import publish_model
from umim.artifacts.store import ObjectStore
from umim.artifacts.writer import write_safetensors
from umim.models.encoder import create_encoder

START = {"globalModel": "t-base"}
"""How a round names the model."""


def publish_start(
    platform: Platform, folder: Path, architecture: str = ARCHITECTURE, name: str = START["globalModel"]
) -> ModelManifest:
    """Publish random weights as a GlobalModel, as the operator's Jobs would. ``folder`` holds them meanwhile."""
    path = folder / "model.safetensors"
    write_safetensors(create_encoder(architecture, SIDE, seed=0).net.state_dict(), path)
    meta = {"name": name, "namespace": FEDERATION}
    return register_start(platform.store(), platform.api, path, meta, architecture, SIDE)


def register_start(
    store: ObjectStore, api: Api, path: Path, meta: dict[str, str], architecture: str, image_size: int
) -> ModelManifest:
    """Publish the model of a file and make its GlobalModel, whose name and namespace are ``meta``."""
    digest = publish_model(
        store,
        path,
        architecture=architecture,
        image_size=image_size,
        strategy="init-random",
        round_uid="none",
        seed=0,
        software={},
        created=datetime.now(UTC),
    )
    manifest = read_model_manifest(store, digest)
    spec = GlobalModelSpec(
        digest=digest,
        object_key=manifest.file.key,
        size_bytes=manifest.file.size_bytes,
        architecture=architecture,
        image_size=image_size,
        strategy=manifest.strategy,
        round=RoundReference(name="none", uid="none"),
        created=manifest.created,
    )
    body = {"apiVersion": "umim.dev/v1alpha1", "kind": "GlobalModel", "metadata": meta, "spec": spec.to_dict()}
    api.apply(body)
    return manifest
