"""What the end-to-end tests share: hospitals that just work, and a model to start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.models import START, publish_start
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import Round, round_body
from tests.e2e.chaos.world import World
from umim.api.artifacts import ModelManifest

Launch = Callable[..., Round]


@pytest.fixture(scope="session")
def sites(hospitals: Hospitals) -> tuple[Site, Site, Site]:
    """Three hospitals that just work."""
    first, second, third = (hospitals.add(f"{PREFIX}-site-{letter}", seed=ord(letter)) for letter in "abc")
    return first, second, third


@pytest.fixture(scope="session")
def start_model(platform: Platform, hospitals: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    """A GlobalModel ``t-base`` with random weights."""
    return publish_start(platform, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="session")
def world(platform: Platform, hospitals: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> World:
    """What the cases of ``make chaos`` share."""
    return World(platform, hospitals, tmp_path_factory.mktemp("chaos") / "twins.json")


@pytest.fixture(scope="session")
def launch(platform: Platform, start_model: ModelManifest) -> Launch:
    """Creates a round over sites; keywords as in ``round_body``, by default from the model ``t-base``."""

    def create(name: str, *sites: Site, parent: dict[str, str] | None = None, **spec: Any) -> Round:
        return Round.create(platform, round_body(name, sites, parent or START, **spec))

    return create
