"""Brings the platform up: cluster, images, the umim chart. Idempotent; takes seconds when all is up already.

The tests share the release ``umim`` in ``umim-system`` with the demonstration, because only one operator may act in a
cluster. An existing release keeps its values; the tests only add their federation namespace.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis
from pydantic import SecretStr

from hack.cluster import gotools
from hack.cluster.progress import Progress
from hack.cluster.settings import Paths
from hack.testenv import lanes
from hack.testenv.api import Api, Object
from hack.testenv.helm import Helm
from hack.testenv.waiting import wait_until
from umim.artifacts.minio import MinioStore
from umim.progress import connect
from umim.settings import RedisSettings, S3Credentials, StoreSettings

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "umim-system"
RELEASE = "umim"
PREFIX = lanes.prefix(os.environ)
"""Of all namespaces of the tests in this process."""
FEDERATION = f"{PREFIX}-federation"
FEDERATIONS = {f"{prefix}-federation": prefix for prefix in lanes.prefixes(os.environ)}
"""Those of all lanes with their prefixes: the release is installed once for all of them."""
OPERATOR = "umim-operator"
CONSOLE = "umim-console"
MINIO = "umim-minio"
REDIS = "umim-redis"
BUCKET = "umim"
LABEL = "umim.dev/test"
TEST_LABEL = {LABEL: PREFIX}
"""On every namespace and volume of the tests, so that what an interrupted run left is found."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

FRESH_VALUES = {
    "minio": {"enabled": True, "persistence": {"enabled": False}},
    "redis": {"enabled": True},
}
"""For a cluster without a release: nothing outlives the Pods."""


@dataclass(frozen=True)
class Platform:
    """A running platform and how to reach it from here."""

    api: Api
    helm: Helm
    kubectl: Path
    kubeconfig: Path

    def run_kubectl(self, *arguments: str) -> str:
        """Return kubectl's output. Raises CalledProcessError."""
        command = [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def run_umim(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line tool on the cluster."""
        return subprocess.run(
            [sys.executable, "-c", "from umim.cli.main import app; app()", *arguments],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def namespace(self, name: str, prefix: str = PREFIX) -> None:
        """Make a namespace of the tests, under the restricted Pod Security Standard. prefix: its lane's."""
        labels = {LABEL: prefix, **RESTRICTED}
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def store(self, credentials: S3Credentials | None = None) -> MinioStore:
        """Return the object store, reached from the host; by default with the administrator's rights."""
        if credentials is None:
            root = self.secret(SYSTEM, "umim-minio")
            credentials = S3Credentials(access_key=root["rootUser"], secret_key=SecretStr(root["rootPassword"]))
        return MinioStore.from_settings(self.store_settings(credentials))

    def store_settings(self, credentials: S3Credentials | None = None) -> StoreSettings:
        """Return how the object store is reached from the host; by default with the operator's rights."""
        if credentials is None:
            keys = self.secret(SYSTEM, "umim-object-store")
            credentials = S3Credentials(access_key=keys["accessKey"], secret_key=SecretStr(keys["secretKey"]))
        return StoreSettings(
            endpoint=f"https://{self.address(MINIO)}:9000",
            bucket=BUCKET,
            credentials=credentials,
            ca=self.authority(MINIO),
            server_name=f"{MINIO}.{SYSTEM}.svc",
        )

    def redis_settings(self) -> RedisSettings:
        """Return how Redis is reached from the host, with the operator's rights."""
        return RedisSettings(
            url=f"rediss://{self.address(REDIS)}:6379/0",
            password=SecretStr(self.secret(SYSTEM, REDIS)["password"]),
            ca=self.authority(REDIS),
            server_name=f"{REDIS}.{SYSTEM}.svc",
        )

    def redis(self, username: str | None = None, password: str | None = None) -> redis.Redis:
        """Return Redis, reached from the host; by default with the operator's rights."""
        settings = self.redis_settings()
        if password is not None:
            settings = settings.model_copy(update={"username": username, "password": SecretStr(password)})
        return connect(settings, decode_responses=True, socket_timeout=10)

    def authority(self, server: str) -> str:
        """Return the CA of MinIO or Redis."""
        return self.secret(SYSTEM, f"{server}-tls")["ca.crt"]

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """Return the values of a Secret."""
        data = self.api.get("Secret", namespace, name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def scale(self, deployment: str, replicas: int) -> None:
        """Set the replicas of a Deployment of the platform and wait until it has exactly as many."""
        self.api.patch("Deployment", SYSTEM, deployment, {"spec": {"replicas": replicas}})
        self.wait_ready(deployment)

    def restart_operator(self) -> None:
        """Make the operator run the image that is loaded now, and wait for it."""
        self.restart(OPERATOR)
        self.wait_ready(OPERATOR)

    def restart(self, deployment: str) -> None:
        """Make a Deployment of the platform run the image that is loaded now."""
        stamp = {"umim.dev/restarted": datetime.now(UTC).isoformat()}
        patch = {"spec": {"replicas": 1, "template": {"metadata": {"annotations": stamp}}}}
        self.api.patch("Deployment", SYSTEM, deployment, patch)

    def kill_operator(self) -> None:
        """Kill the operator without a grace period; Kubernetes starts it again."""
        labels = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": "operator"}
        for pod in self.api.select("Pod", SYSTEM, labels):
            self.api.delete("Pod", SYSTEM, pod["metadata"]["name"], now=True)

    def wait_ready(self, deployment: str) -> None:
        """Wait until a Deployment of the platform is as it should be, and its Service, if it has one, answers."""
        labels = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": deployment.split("-", 1)[1]}
        wait_until(
            f"Deployment {deployment} rolled out",
            lambda: self._rolled_out(deployment, labels),
            180,
            lambda: "\n".join(describe_pod(self.api, pod) for pod in self.api.select("Pod", SYSTEM, labels)),
        )
        service = self.api.find("Service", SYSTEM, deployment)
        if service is not None and self.api.get("Deployment", SYSTEM, deployment)["spec"]["replicas"]:
            # A Pod is ready before kube-proxy sends anything to it.
            where = (service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"])
            wait_until(f"Service {deployment} answers", lambda: _answers(*where), 60, lambda: f"{where} refuses")

    def _rolled_out(self, deployment: str, labels: dict[str, str]) -> bool:
        body = self.api.get("Deployment", SYSTEM, deployment)
        status, wanted = body.get("status", {}), body["spec"]["replicas"]
        if status.get("observedGeneration", 0) < body["metadata"]["generation"]:
            return False
        counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
        return counts == [wanted] * 3 and len(self.api.select("Pod", SYSTEM, labels)) == wanted

    def address(self, service: str) -> str:
        """Return the address of a Service of the platform, reachable from here."""
        # kube-proxy of the embedded cluster runs on the host, so that a ClusterIP is reachable from here.
        address: str = self.api.get("Service", SYSTEM, service)["spec"]["clusterIP"]
        return address


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def bring_up() -> Platform:
    """Start what does not run, install what is not installed, and return the platform.

    The first lane that comes does it for all lanes of the run: an upgrade would disturb the tests of the others.
    """
    paths, run = Paths.from_env(os.environ), lanes.run(os.environ)
    last = paths.cache / "testenv-run"
    with gotools.locked(paths.cache / "testenv.lock", Progress(), "brings the platform up"):
        if run is not None and last.exists() and last.read_text() == run:
            return _platform(paths)
        platform = _bring_up(paths)
        if run is not None:
            last.write_text(run)
        return platform


def _bring_up(paths: Paths) -> Platform:
    _step("hack.cluster", "up")
    load_images()
    platform = _platform(paths)
    if platform.api.find("Namespace", "", SYSTEM) is None:
        labels = {"name": SYSTEM, "labels": RESTRICTED}
        platform.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": labels})
    for name, prefix in FEDERATIONS.items():
        platform.namespace(name, prefix)
    install_umim(platform)
    return platform


def _platform(paths: Paths) -> Platform:
    tools = gotools.ensure(["helm", "kubectl"], paths.cache, Progress())
    helm = Helm(tools["helm"], paths.kubeconfig, ROOT / "charts")
    return Platform(Api(paths.kubeconfig), helm, tools["kubectl"], paths.kubeconfig)


def install_umim(platform: Platform) -> None:
    """Install the chart, or upgrade the release that is there, and let the operator run the newest image."""
    present = platform.helm.values(RELEASE, SYSTEM)
    values = dict(FRESH_VALUES) if present is None else {}
    others: Sequence[str] = ((present or {}).get("federations") or {}).get("namespaces") or []
    known = [name for name in others if platform.api.find("Namespace", "", name) is not None]
    values["federations"] = {"namespaces": sorted({*known, *FEDERATIONS})}
    values["console"] = {"enabled": True}
    platform.helm.install(RELEASE, "umim", SYSTEM, values, keep_values=present is not None, wait=True)
    platform.restart_operator()
    platform.restart(CONSOLE)


def load_images(*names: str) -> None:
    """Build and load images; without names those that every cluster runs."""
    _step("hack.images", "load", *names)


def describe_pod(api: Api, pod: Object) -> str:
    """Return a Pod's state and the end of its log, for failure messages."""
    meta, status = pod["metadata"], pod.get("status", {})
    states = [item.get("state") for item in status.get("containerStatuses", [])]
    head = f"Pod {meta['namespace']}/{meta['name']}: {status.get('phase')} {states} {status.get('message', '')}"
    return f"{head}\n{api.log(meta['namespace'], meta['name'])}"


def _step(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`python3 -m {module} {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}"[-3000:])
