"""What the end-to-end tests share: hospitals that just work, and a model to start from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.images import SIDE
from hack.testenv.platform import FEDERATION, PREFIX, Platform
from hack.testenv.rounds import ARCHITECTURE, Round, round_body
from umim.api.artifacts import ModelManifest
from umim.api.globalmodel import GlobalModelSpec, RoundReference
from umim.artifacts.manifests import read_model_manifest
from umim.artifacts.models import publish_model
from umim.artifacts.writer import write_safetensors
from umim.models.encoder import create_encoder

START = {"globalModel": "t-base"}
"""Where most rounds start from: it saves them the Job that makes a start model."""

Launch = Callable[..., Round]


@pytest.fixture(scope="session")
def sites(hospitals: Hospitals) -> tuple[Site, Site, Site]:
    """Three hospitals that just work."""
    first, second, third = (hospitals.add(f"{PREFIX}-site-{letter}", seed=ord(letter)) for letter in "abc")
    return first, second, third


@pytest.fixture(scope="session")
def start_model(platform: Platform, hospitals: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    """A GlobalModel ``t-base`` with random weights, published as the operator's Jobs would."""
    path = tmp_path_factory.mktemp("start") / "model.safetensors"
    write_safetensors(create_encoder(ARCHITECTURE, SIDE, seed=0).net.state_dict(), path)
    digest = _publish(platform, path)
    manifest = read_model_manifest(platform.store(), digest)
    spec = GlobalModelSpec(
        digest=digest,
        object_key=manifest.file.key,
        size_bytes=manifest.file.size_bytes,
        architecture=ARCHITECTURE,
        image_size=SIDE,
        strategy=manifest.strategy,
        round=RoundReference(name="none", uid="none"),
        created=manifest.created,
    )
    meta = {"name": START["globalModel"], "namespace": FEDERATION}
    body = {"apiVersion": "umim.dev/v1alpha1", "kind": "GlobalModel", "metadata": meta, "spec": spec.to_dict()}
    platform.api.apply(body)
    return manifest


def _publish(platform: Platform, path: Path) -> str:
    return publish_model(
        platform.store(),
        path,
        architecture=ARCHITECTURE,
        image_size=SIDE,
        strategy="init-random",
        round_uid="none",
        seed=0,
        software={},
        created=datetime.now(UTC),
    )


@pytest.fixture(scope="session")
def launch(platform: Platform, start_model: ModelManifest) -> Launch:
    """Creates a round over sites; keywords as in ``round_body``, by default from the model ``t-base``."""

    def create(name: str, *sites: Site, parent: dict[str, str] | None = None, **spec: Any) -> Round:
        return Round.create(platform, round_body(name, sites, parent or START, **spec))

    return create
