"""Fixtures of the tests on a real cluster. They bring up what is missing and cost nothing to other tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported late: unit tests need none of it
    from hack.testenv.hospitals import Hospitals
    from hack.testenv.platform import Platform


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The cluster with the umim chart, swept of what an interrupted run left, and of all rounds at the end."""
    from hack.testenv.hospitals import remove_rounds, sweep
    from hack.testenv.platform import bring_up

    found = bring_up()
    sweep(found)
    yield found
    remove_rounds(found)


@pytest.fixture(scope="session")
def hospitals(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Makes hospitals; at the end of the session all rounds, models and hospitals of the tests are removed."""
    from hack.testenv.hospitals import Hospitals, remove_rounds

    made = Hospitals(platform, tmp_path_factory.mktemp("hospitals"))
    yield made
    remove_rounds(platform)
    made.remove()
