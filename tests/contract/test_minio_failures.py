"""How the MinIO store behaves when server, network or settings fail, and how a server is set up."""

from __future__ import annotations

import hashlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.contract.servers import ADMIN, BUCKET, OPERATOR, MinioServer, free_port
from umim.artifacts.minio import MinioStore, PassingStoreError, RetryPolicy
from umim.artifacts.provision import provision
from umim.errors import AccessDeniedError, ConfigError, NotFoundError, StoreError
from umim.settings import S3Credentials, StoreSettings, StoreSetupSettings

WHOLE = 1 << 40
QUICK = RetryPolicy(attempts=4, first_wait_seconds=0.01, longest_wait_seconds=0.02)


class _Proxy(socketserver.ThreadingTCPServer):
    """Forwards connections to a local port; the first ones are cut after so many bytes from the server."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, target: int, budgets: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target
        self.budgets = budgets
        self.clients: list[socket.socket] = []


class _Forward(socketserver.BaseRequestHandler):
    """One connection."""

    server: _Proxy
    request: socket.socket

    def handle(self) -> None:
        self.server.clients.append(self.request)
        budget = self.server.budgets.pop(0) if self.server.budgets else WHOLE
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            sender = threading.Thread(target=_pass_on, args=(self.request, upstream, WHOLE))
            sender.start()
            _pass_on(upstream, self.request, budget)
            sender.join()


def _pass_on(source: socket.socket, sink: socket.socket, budget: int) -> None:
    with suppress(OSError):
        while budget > 0 and (data := source.recv(min(65536, budget))):
            sink.sendall(data)
            budget -= len(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def flaky_proxy(target: int, budgets: list[int]) -> Iterator[int]:
    """Run a proxy that takes one of the budgets a connection; yield its port."""
    with _Proxy(target, budgets) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(proxy.server_address[1])
        finally:
            proxy.shutdown()
            thread.join()
            for client in proxy.clients:  # ends the connections that the client's pool keeps open
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


def through(server: MinioServer, port: int) -> MinioStore:
    update = {"endpoint": f"http://127.0.0.1:{port}", "credentials": ADMIN}
    return MinioStore.from_settings(server.settings.model_copy(update=update), QUICK)


def port_of(server: MinioServer) -> int:
    return int(server.settings.host.rpartition(":")[2])


def test_a_download_that_breaks_off_is_done_again(minio_server: MinioServer, tmp_path: Path) -> None:
    data = hashlib.shake_128(b"model").digest(4 << 20)
    minio_server.store(ADMIN).put("rounds/flaky/a", data)
    with flaky_proxy(port_of(minio_server), [0, 1 << 20]) as port:
        digest = through(minio_server, port).download("rounds/flaky/a", tmp_path / "out")
    assert digest == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "out").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_upload_that_breaks_off_is_done_again(minio_server: MinioServer, tmp_path: Path) -> None:
    data = hashlib.shake_128(b"update").digest(20 << 20)
    (tmp_path / "in").write_bytes(data)
    with flaky_proxy(port_of(minio_server), [0, 10]) as port:
        digest = through(minio_server, port).upload(tmp_path / "in", "rounds/flaky/b")
    assert digest == hashlib.sha256(data).hexdigest()
    assert minio_server.store(ADMIN).get("rounds/flaky/b") == data


def test_a_conditional_write_whose_answer_is_lost_has_written(minio_server: MinioServer) -> None:
    with flaky_proxy(port_of(minio_server), [5]) as port:
        through(minio_server, port).put("rounds/flaky/c", b"manifest", if_absent=True)
    store = minio_server.store(ADMIN)
    assert store.get("rounds/flaky/c") == b"manifest"
    store.delete("rounds/flaky/c")


def test_tries_are_bounded(minio_server: MinioServer) -> None:
    budgets = [0] * 20
    with flaky_proxy(port_of(minio_server), budgets) as port, pytest.raises(PassingStoreError, match="does not answer"):
        through(minio_server, port).get("rounds/flaky/a")
    assert len(budgets) == 20 - QUICK.attempts


def test_a_refusal_is_not_tried_again(minio_server: MinioServer) -> None:
    budgets = [WHOLE] * 20
    with flaky_proxy(port_of(minio_server), budgets) as port, pytest.raises(NotFoundError):
        through(minio_server, port).get("rounds/flaky/none")
    assert len(budgets) == 19


def test_a_dead_endpoint_is_a_store_error_that_names_object_and_bucket() -> None:
    settings = StoreSettings(endpoint=f"http://127.0.0.1:{free_port()}", bucket=BUCKET, credentials=OPERATOR)
    with pytest.raises(StoreError, match=rf"read of a/b in bucket {BUCKET} failed: the store does not answer"):
        MinioStore.from_settings(settings, QUICK).get("a/b")


def test_an_unknown_bucket_is_not_found(minio_server: MinioServer) -> None:
    with pytest.raises(NotFoundError, match="in bucket nowhere"):
        minio_server.store(ADMIN, bucket="nowhere").get("a/b")


@pytest.mark.parametrize(
    "credentials",
    [
        S3Credentials(access_key="unknown-user", secret_key=SecretStr("secret-secret")),
        S3Credentials(access_key=ADMIN.access_key, secret_key=SecretStr("another-secret")),
        S3Credentials(**{**ADMIN.model_dump(), "session_token": SecretStr("forged")}),
    ],
    ids=["unknown key", "wrong secret", "forged token"],
)
def test_wrong_credentials_are_refused(minio_server: MinioServer, credentials: S3Credentials) -> None:
    store = minio_server.store(credentials)
    with pytest.raises(AccessDeniedError, match="refused"):
        store.get("a/b")
    with pytest.raises(AccessDeniedError, match="refused"):
        store.put("a/b", b"", if_absent=True)


def test_moved_bytes_are_counted(minio_server: MinioServer, tmp_path: Path) -> None:
    moved = {"in": 0, "out": 0}

    def count(direction: str, number: int) -> None:
        moved[direction] += number

    settings = minio_server.settings.model_copy(update={"credentials": ADMIN})
    store = MinioStore.from_settings(settings, QUICK, count)
    (tmp_path / "in").write_bytes(bytes(1000))
    store.upload(tmp_path / "in", "rounds/counted/a")
    store.put("rounds/counted/b", bytes(10))
    store.download("rounds/counted/a", tmp_path / "out")
    store.read_range("rounds/counted/b", 0, 3)
    assert moved == {"in": 1003, "out": 1010}


def test_setting_up_again_does_no_harm_and_replaces_the_secret(minio_server: MinioServer) -> None:
    renewed = S3Credentials(access_key="test-renewed", secret_key=SecretStr("first-secret"))
    for secret in ("first-secret", "second-secret"):
        renewed = renewed.model_copy(update={"secret_key": SecretStr(secret)})
        settings = minio_server.settings.model_copy(update={"credentials": renewed})
        provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=10)
        assert minio_server.store(renewed).put("rounds/setup/a", secret.encode()) is True
    with pytest.raises(AccessDeniedError):
        minio_server.store(renewed.model_copy(update={"secret_key": SecretStr("first-secret")})).get("rounds/setup/a")


def test_set_up_with_a_wrong_administrator_says_so_at_once(minio_server: MinioServer) -> None:
    wrong = ADMIN.model_copy(update={"secret_key": SecretStr("wrong-secret")})
    with pytest.raises(AccessDeniedError, match="refused"):
        provision(StoreSetupSettings(store=minio_server.settings, admin=wrong), patience_seconds=600)


@pytest.mark.parametrize(("user", "secret"), [("ab", "long-enough-secret"), ("test-other", "short")])
def test_set_up_with_an_operator_that_minio_refuses_is_a_configuration_error(
    minio_server: MinioServer, user: str, secret: str
) -> None:
    operator = S3Credentials(access_key=user, secret_key=SecretStr(secret))
    settings = minio_server.settings.model_copy(update={"credentials": operator})
    with pytest.raises(ConfigError, match="access key or secret"):
        provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=600)


def test_set_up_gives_up_on_a_silent_server_after_its_patience() -> None:
    settings = StoreSettings(endpoint=f"http://127.0.0.1:{free_port()}", bucket=BUCKET, credentials=OPERATOR)
    with pytest.raises(StoreError, match="does not answer"):
        provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=0.01)
