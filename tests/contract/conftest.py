"""Fixtures over real servers: MinIO and Redis. Never skipped: what cannot be had fails with a sentence."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.servers import ADMIN, MinioServer, free_port, minio, redis_server
from umim.artifacts.local import LocalStore
from umim.artifacts.memory import MemoryStore
from umim.artifacts.provision import provision
from umim.artifacts.store import ObjectStore
from umim.progress import ProgressReader
from umim.settings import RedisSettings, StoreSetupSettings

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 850


@pytest.fixture(scope="session")
def minio_binary() -> Path:
    """The MinIO server binary; the first call on a machine builds it, which takes minutes."""
    command = [sys.executable, "-m", "hack.cluster", "tool", "minio"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=BUILD_SECONDS, check=False)
    binary = Path(built.stdout.decode().strip() or "/nonexistent")
    if built.returncode != 0 or not binary.is_file():
        pytest.fail(
            f"no MinIO server: `{' '.join(command[1:])}` ended with {built.returncode}; run it by hand to see why"
        )
    return binary


@pytest.fixture(scope="session")
def minio_server(minio_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    with minio(minio_binary, tmp_path_factory.mktemp("minio"), free_port()) as settings:
        provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=60)
        yield MinioServer(settings)


@pytest.fixture(params=["memory", "local", "minio"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Every kind of store, with all rights."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path_factory.mktemp("local") / "store")
    server: MinioServer = request.getfixturevalue("minio_server")
    return server.store(ADMIN)


RunRedis = Callable[[int], None]


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Debian's Redis server, installed where it is missing."""
    if shutil.which("redis-server") is None:
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "redis-server"]):
            done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=BUILD_SECONDS, check=False)
            if done.returncode != 0:
                pytest.fail(f"no Redis server: `{' '.join(command)}` ended with {done.returncode}; run it as root")
    found = shutil.which("redis-server")
    assert found is not None
    return found


@pytest.fixture
def run_redis(redis_binary: str, tmp_path: Path) -> Iterator[RunRedis]:
    """Starts a Redis server on a port; it ends with the test."""
    with ExitStack() as stack:

        def start(port: int) -> None:
            stack.enter_context(redis_server(redis_binary, tmp_path, port))

        yield start


@pytest.fixture
def redis_settings(run_redis: RunRedis) -> RedisSettings:
    """A Redis server of this test, with all rights."""
    port = free_port()
    run_redis(port)
    return RedisSettings(url=f"redis://127.0.0.1:{port}/0")


@pytest.fixture
def progress_reader(redis_settings: RedisSettings) -> Iterator[ProgressReader]:
    with ProgressReader(redis_settings) as opened:
        yield opened
