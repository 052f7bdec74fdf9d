"""Redis is away."""

from __future__ import annotations

from hack.testenv.platform import REDIS
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import SHORT, World


@case("redis", alone=True)
def all_round(world: World) -> list[Row]:
    """There is no Redis from before the round to its end."""
    twin = world.twin("short", training=SHORT)
    world.platform.scale(REDIS, 0)
    try:
        trial = world.launch("redis", training=SHORT)
        outcome = "no live progress was shown, nothing else changed"
        return [world.complete(trial, case="redis", fault="Redis away", phase="all", outcome=outcome, twin=twin)]
    finally:
        world.platform.scale(REDIS, 1)
