"""Real servers on random loopback ports: etcd, kube-apiserver, MinIO and Redis. No kubelet, scheduler or controller.

They live as long as the block that starts them, in a folder that vanishes with it. The embedded cluster is not touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hack.cluster.gotools import ensure
from hack.cluster.progress import Progress
from hack.cluster.settings import Paths
from tests.contract.servers import ADMIN, OPERATOR, READY, free_port, minio, redis_server, running
from umim.artifacts.provision import provision
from umim.settings import StoreSettings, StoreSetupSettings

HOST = "127.0.0.1"
OPERATOR_USER = "system:serviceaccount:umim-system:umim-operator"
KUBELET_USER = "system:node:test-kubelet"
ADMIN_USER = "benchmark"
SERVICE_ACCOUNTS = "system:serviceaccounts,system:serviceaccounts:umim-system,system:authenticated"
USERS = {ADMIN_USER: "system:masters", OPERATOR_USER: SERVICE_ACCOUNTS, KUBELET_USER: "system:masters"}
"""Groups by user. The operator has those of its ServiceAccount, so that RBAC and fairness treat it as in a cluster."""
TOOLS = ("etcd", "kube-apiserver", "minio")

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}],
}
"""What the API server itself notes: every request of the operator, and of nobody else."""


@dataclass(frozen=True)
class Plane:
    """The running servers, and how to reach them."""

    folder: Path
    kubeconfigs: Mapping[str, Path]
    """By user."""
    store: StoreSettings
    redis_url: str
    audit_log: Path
    processes: Mapping[str, int]
    """PIDs by name."""

    def environment(self) -> dict[str, str]:
        """Return the operator's settings as the chart writes them into its Pod."""
        secret = self.store.credentials.secret_key.get_secret_value()
        return {
            "UMIM_S3_ENDPOINT": self.store.endpoint,
            "UMIM_S3_BUCKET": self.store.bucket,
            "UMIM_S3_ACCESS_KEY": self.store.credentials.access_key,
            "UMIM_S3_SECRET_KEY": secret,
            "UMIM_REDIS_URL": self.redis_url,
            "UMIM_TRAINER_IMAGE": "umim.local/trainer:bench",
            "UMIM_AGGREGATOR_IMAGE": "umim.local/aggregator:bench",
        }


@contextmanager
def plane(folder: Path, progress: Progress) -> Iterator[Plane]:
    """Run the servers for the length of a block."""
    tools = ensure(TOOLS, Paths.from_env(os.environ).cache, progress)
    with ExitStack() as stack:
        etcd, etcd_url = _etcd(stack, tools["etcd"], folder)
        api_server, url = _api_server(stack, tools["kube-apiserver"], folder, etcd_url)
        data = folder / "minio"
        data.mkdir()
        store = stack.enter_context(minio(tools["minio"], data, free_port()))
        provision(StoreSetupSettings(store=store, admin=ADMIN), patience_seconds=60)
        redis_url = _redis(stack, folder)
        kubeconfigs = {user: _kubeconfig(folder, url, user) for user in USERS}
        pids = {"etcd": etcd, "kube-apiserver": api_server}
        yield Plane(folder, kubeconfigs, store, redis_url, folder / "audit.log", pids)


def _etcd(stack: ExitStack, binary: Path, folder: Path) -> tuple[int, str]:
    client, peer = (f"http://{HOST}:{free_port()}" for _ in range(2))
    command = [
        *(str(binary), "--name=bench", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync=true", "--log-level=warn"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"),
        *(f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=bench={peer}"),
    ]
    process = stack.enter_context(running(command, folder / "etcd.log"))
    _ready(process, folder / "etcd.log", f"{client}/health", None)
    return process.pid, client


def _api_server(stack: ExitStack, binary: Path, folder: Path, etcd_url: str) -> tuple[int, str]:
    port = free_port()
    _certificate(folder)
    (folder / "audit.json").write_text(json.dumps(AUDIT_POLICY))
    tokens = "".join(f'{_token(user)},{user},{user},"{groups}"\n' for user, groups in USERS.items())
    (folder / "tokens.csv").write_text(tokens)
    command = [
        *(str(binary), f"--etcd-servers={etcd_url}", f"--bind-address={HOST}", f"--secure-port={port}"),
        *(f"--advertise-address={HOST}", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.255.0.0/24"),
        *(f"--tls-cert-file={folder / 'api.crt'}", f"--tls-private-key-file={folder / 'api.key'}"),
        *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC", "--profiling=false"),
        # Fewer than by default, and far more than the operator uses: so a priority level of one share has one seat.
        *("--max-requests-inflight=160", "--max-mutating-requests-inflight=80"),
        "--service-account-issuer=https://bench.invalid",
        *(f"--service-account-{part}-file={folder / 'api.key'}" for part in ("key", "signing-key")),
        *(f"--audit-policy-file={folder / 'audit.json'}", f"--audit-log-path={folder / 'audit.log'}"),
    ]
    process = stack.enter_context(running(command, folder / "apiserver.log"))
    url = f"https://{HOST}:{port}"
    _ready(process, folder / "apiserver.log", f"{url}/readyz", folder / "api.crt")
    return process.pid, url


def _redis(stack: ExitStack, folder: Path) -> str:
    port = free_port()
    stack.enter_context(redis_server(_redis_binary(), folder, port))
    return f"redis://{HOST}:{port}/0"


def _redis_binary() -> str:
    if shutil.which("redis-server") is None:
        subprocess.run(["apt-get", "update"], stdout=subprocess.DEVNULL, check=False)
        install = ["apt-get", "install", "-y", "--no-install-recommends", "redis-server"]
        subprocess.run(install, stdout=subprocess.DEVNULL, check=False)
    found = shutil.which("redis-server")
    if found is None:
        sys.exit("no redis-server, and apt-get cannot install it: run as root on Debian, or install it by hand")
    return found


def _ready(process: subprocess.Popen[bytes], log: Path, url: str, trusted: Path | None) -> None:
    def healthy() -> None:
        assert process.poll() is None, f"{log.stem} ended: {log.read_text()[-2000:]}"
        with urllib3.PoolManager(retries=False, timeout=5, ca_certs=str(trusted) if trusted else None) as pool:
            headers = {"Authorization": f"Bearer {_token(ADMIN_USER)}"} if trusted else {}
            assert pool.request("GET", url, headers=headers).status == 200

    READY(healthy)


def _token(user: str) -> str:
    """Return the user's token. It opens nothing but servers that live for minutes on this machine's loopback."""
    return f"benchmark-{user.rpartition(':')[2]}"


def _certificate(folder: Path) -> None:
    """Write a key, and a certificate for the loopback address that is its own authority."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "umim-benchmark")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "api.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "api.key").touch(mode=0o600)
    (folder / "api.key").write_bytes(pem)


def _kubeconfig(folder: Path, url: str, user: str) -> Path:
    path = folder / f"{user.rpartition(':')[2]}.kubeconfig"
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority": str(folder / "api.crt")}}],
        "users": [{"name": "bench", "user": {"token": _token(user)}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
    path.write_text(json.dumps(config))
    return path


__all__ = ["ADMIN_USER", "KUBELET_USER", "OPERATOR", "OPERATOR_USER", "Plane", "plane"]
