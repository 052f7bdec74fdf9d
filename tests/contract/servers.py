"""Runs real servers on random loopback ports: MinIO, and others in ``running``."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tenacity
from pydantic import SecretStr

from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.settings import S3Credentials, StoreSettings

BUCKET = "umim-test"
ADMIN = S3Credentials(access_key="test-root", secret_key=SecretStr("test-root-secret"))
OPERATOR = S3Credentials(access_key="test-operator", secret_key=SecretStr("test-operator-secret"))
READY = tenacity.Retrying(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_fixed(0.05), reraise=True)


@dataclass(frozen=True)
class MinioServer:
    """A running MinIO server, set up for a federation."""

    settings: StoreSettings
    """The store as the operator uses it."""

    def store(self, credentials: S3Credentials | None = None, **changes: object) -> MinioStore:
        """Return a store for other credentials or changed settings; passing errors are tried twice."""
        update = {"credentials": credentials or self.settings.credentials, **changes}
        return MinioStore.from_settings(self.settings.model_copy(update=update), RetryPolicy(2, 0.01, 0.01))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of a block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


@contextmanager
def minio(binary: Path, folder: Path, port: int, certificates: Path | None = None) -> Iterator[StoreSettings]:
    """Run MinIO on a port, once its health says ready; with TLS where there is a folder of certificates."""
    env = {
        **os.environ,
        "MINIO_ROOT_USER": ADMIN.access_key,
        "MINIO_ROOT_PASSWORD": ADMIN.secret_key.get_secret_value(),
        "MINIO_BROWSER": "off",
    }
    log = folder / "minio.log"
    command = [str(binary), "server", "--address", f"127.0.0.1:{port}", str(folder / "data")]
    if certificates is not None:
        command[2:2] = ["--certs-dir", str(certificates)]
    endpoint = f"{'https' if certificates else 'http'}://127.0.0.1:{port}"

    anybody = ssl.create_default_context()  # whom to trust is for the tests to say
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE

    def healthy(process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, f"minio ended: {log.read_text()}"
        with urllib.request.urlopen(f"{endpoint}/minio/health/cluster", timeout=5, context=anybody) as answer:
            assert answer.status == 200

    with running(command, log, env) as process:
        READY(healthy, process)
        yield StoreSettings(endpoint=endpoint, bucket=BUCKET, credentials=OPERATOR)


@contextmanager
def redis_server(binary: str, folder: Path, port: int, certificates: Path | None = None) -> Iterator[None]:
    """Run Redis on a port, once it listens; with TLS where there is a folder of tls.crt and tls.key."""
    command = [binary, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    if certificates is None:
        command += ["--port", str(port)]
    else:
        command += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
        command += ["--tls-cert-file", str(certificates / "tls.crt"), "--tls-key-file", str(certificates / "tls.key")]
    log = folder / f"redis-{port}.log"

    def listening(process: subprocess.Popen[bytes]) -> None:
        assert process.poll() is None, f"redis-server ended: {log.read_text()}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()

    with running(command, log) as process:
        READY(listening, process)
        yield
