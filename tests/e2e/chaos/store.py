"""The object store dies in the middle of a transfer, is full, or no longer takes credentials."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from pydantic import SecretStr

from hack.testenv.machine import PodProcess
from hack.testenv.platform import BUCKET, OPERATOR, SYSTEM
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import LARGE, LARGE_START, SHORT, Trial, Twin, World
from umim import contract
from umim.artifacts.minio import MinioStore, http_pool
from umim.artifacts.provision import provision
from umim.settings import S3Credentials, StoreSettings, StoreSetupSettings

PORT = 9000
UNREAD = 32 << 10
"""Bytes in a socket's queue that no request's head makes up: it is the body of a transfer."""
CATCH_SECONDS = 240.0
SETTLE_SECONDS = 0.01
Queues = list[tuple[int, int]]


def _receiving(queues: Queues) -> bool:
    return any(received >= UNREAD for received, _ in queues)


def _sending(queues: Queues) -> bool:
    return any(sent >= UNREAD for _, sent in queues)


def _large(world: World, name: str) -> Trial:
    return world.launch(name, **LARGE)


def _twin(world: World) -> Twin:
    world.publish(LARGE_START["globalModel"], LARGE["model"]["architecture"])
    return world.twin("large", **LARGE)


def _kill(world: World, name: str, fault: str, phase: str, seen: Callable[[Queues], bool], settle: float) -> Row:
    """Kill MinIO in the moment in which a Job of a phase moves bytes."""
    twin = _twin(world)
    trial = _large(world, name)
    minio = world.process("minio", "minio")
    trial.round.wait_phase(phase)
    minio.catch(seen, PORT, CATCH_SECONDS, settle)
    minio.send(signal.SIGKILL)
    return world.complete(trial, case=name, fault=fault, phase=phase, twin=twin)


@case("minio-upload", alone=True)
def upload(world: World) -> list[Row]:
    """MinIO is killed while a hospital uploads its update."""
    fault = "MinIO killed while a hospital uploads its update"
    return [_kill(world, "minio-upload", fault, "Training", _receiving, SETTLE_SECONDS)]


@case("minio-read", alone=True)
def read(world: World) -> list[Row]:
    """MinIO is killed while hospitals read the start model."""
    fault = "MinIO killed while hospitals read the start model"
    return [_kill(world, "minio-read", fault, "Training", _sending, 0.0)]


@case("minio-merge", alone=True)
def merge(world: World) -> list[Row]:
    """MinIO is killed while the aggregator reads the updates."""
    fault = "MinIO killed while the aggregator reads the updates"
    return [_kill(world, "minio-merge", fault, "Aggregating", _sending, 0.0)]


@case("minio-publish", alone=True)
def publish(world: World) -> list[Row]:
    """MinIO is killed while the aggregator publishes the model."""
    fault = "MinIO killed while the aggregator publishes the model"
    return [_kill(world, "minio-publish", fault, "Aggregating", _receiving, SETTLE_SECONDS)]


@case("credentials", alone=True)
def credentials(world: World) -> list[Row]:
    """The credentials of the sites die while one of them uploads."""
    twin = _twin(world)
    trial = _large(world, "credentials")
    minio = world.process("minio", "minio")
    trial.round.wait_phase("Training")
    processes = [world.job_process(trial, "site", site.namespace) for site in trial.sites]
    admin = _admin(world)
    user = world.platform.store_settings().credentials.access_key
    with ExitStack() as frozen:
        minio.catch(_receiving, PORT, CATCH_SECONDS, SETTLE_SECONDS)
        for process in processes:
            frozen.enter_context(process.frozen())
        minio.send(signal.SIGCONT)
        begin = time.monotonic()
        admin.user_disable(user)
    try:
        trial.round.wait("a Job failed", lambda _: len(trial.round.active_jobs()) < len(trial.sites), 120)
    finally:
        admin.user_enable(user)
    took = time.monotonic() - begin
    return [
        world.complete(
            trial,
            case="credentials",
            fault="credentials of the sites die while they upload",
            phase="Training",
            fault_seconds=took,
            twin=twin,
            reasons=["JobFailed"],
        )
    ]


def _admin(world: World) -> MinioAdmin:
    root = world.platform.secret(SYSTEM, "umim-minio")
    settings = world.platform.store_settings()
    provider = StaticProvider(root["rootUser"], root["rootPassword"])
    return MinioAdmin(
        endpoint=settings.host, credentials=provider, secure=settings.secure, http_client=http_pool(settings)
    )


# a full disk

STORE = "umim-chaos-store"
DISK = "128Mi"
FILL_BYTES = 64 << 10
FULL = ("XMinioStorageFull", "InternalError")
"""MinIO's words for a full disk: the second where not even its own notes can be written."""


@case("minio-full", alone=True)
def full(world: World) -> list[Row]:
    """The disk of a MinIO is full when the hospitals want to commit, and is freed later."""
    twin = world.twin("short", training=SHORT)
    with _small_store(world) as (store, ballast):
        trial = world.launch("minio-full", training=SHORT)
        for site in trial.sites:
            world.job_process(trial, "site", site.namespace)
        _fill(ballast)
        begin = time.monotonic()
        trial.round.wait("the reason", lambda _: _explained(world, trial), 240)
        ballast.unlink()
        took = time.monotonic() - begin
        return [
            world.complete(
                trial,
                case="minio-full",
                fault="MinIO's disk is full, then freed",
                phase="Training",
                fault_seconds=took,
                reasons=["StoreUnavailable"],
                store=store,
                twin=twin,
            )
        ]


def _explained(world: World, trial: Trial) -> bool:
    """Whether the round shows that a site could not commit, and why its next attempt cannot start."""
    text = world.described(trial.round)
    return any(word in text for word in FULL) and "StoreUnavailable" in text


@contextmanager
def _small_store(world: World) -> Iterator[tuple[MinioStore, Path]]:
    """Let the platform use a MinIO on a small disk while the block runs. Yields it, and a file that can fill it."""
    api, root = world.platform.api, S3Credentials(access_key="umim-root", secret_key=SecretStr("umim-chaos-root"))
    original = world.platform.store_settings()
    (container,) = api.get("Deployment", SYSTEM, "umim-minio")["spec"]["template"]["spec"]["containers"]
    (operator,) = api.get("Deployment", SYSTEM, OPERATOR)["spec"]["template"]["spec"]["containers"]
    endpoint = next(item["value"] for item in operator["env"] if item["name"] == contract.ENV_S3_ENDPOINT)
    api.create(_store_pod(container["image"], root))
    try:
        address = wait_until("the small store has an address", lambda: _address(world), 60, lambda: "")
        settings = StoreSettings(endpoint=f"http://{address}:{PORT}", bucket=BUCKET, credentials=original.credentials)
        provision(StoreSetupSettings(store=settings, admin=root), 60)
        store = MinioStore.from_settings(settings.model_copy(update={"credentials": root}))
        _copy_start(world, store)
        _use(world, settings.endpoint)
        yield store, _disk(world) / "ballast"
    finally:
        _use(world, endpoint)
        api.delete("Pod", SYSTEM, STORE, now=True)


def _copy_start(world: World, store: MinioStore) -> None:
    """Copy what small rounds start from."""
    small = min(world.starts, key=lambda manifest: manifest.file.size_bytes)
    for item in world.platform.store().list(contract.model_prefix(small.file.digest)):
        store.put(item.key, world.platform.store().get(item.key))


def _use(world: World, endpoint: str) -> None:
    variable = f"{contract.ENV_S3_ENDPOINT}={endpoint}"
    world.platform.run_kubectl("set", "env", f"deployment/{OPERATOR}", "-n", SYSTEM, variable)
    world.wait_operator()


def _address(world: World) -> str | None:
    pod = world.platform.api.get("Pod", SYSTEM, STORE)
    found: str | None = pod.get("status", {}).get("podIP")
    return found


def _store_pod(image: str, root: S3Credentials) -> dict[str, object]:
    """Return a Pod with a MinIO whose disk holds little."""
    environment = {"MINIO_ROOT_USER": root.access_key, "MINIO_ROOT_PASSWORD": root.secret_key.get_secret_value()}
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    seccomp = {"type": "RuntimeDefault"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": STORE, "namespace": SYSTEM, "labels": {"umim.dev/test": "chaos"}},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": seccomp,
            },
            "containers": [
                {
                    "name": "minio",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                    "securityContext": security,
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [
                # A tmpfs of this size: a write beyond it fails as on a full disk.
                {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": DISK}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def _disk(world: World) -> Path:
    """Return the disk of the small store, seen from this host."""
    process = PodProcess.of(world.platform.api.get("Pod", SYSTEM, STORE), "minio")
    assert process is not None, "the small store does not run"
    return Path(f"/proc/{process.pid}/root/data")


def _fill(ballast: Path) -> None:
    """Write a file until the disk takes no more."""
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(FILL_BYTES))
            file.flush()
