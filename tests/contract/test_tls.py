"""TLS to a real MinIO and a real Redis: who is trusted, and what a person reads where nobody is."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.authority import EXPIRED, LOOPBACK, Authority, Pair
from tests.contract.servers import ADMIN, READY, MinioServer, free_port, minio, redis_server
from tests.contract.test_progress import Clock, publisher, report
from umim import contract
from umim.api.jobs import InitJobConfig
from umim.api.round import OptimisationSpec
from umim.artifacts.manifests import manifest_bytes, read_job_result
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.artifacts.provision import provision
from umim.entrypoints import pretrain
from umim.entrypoints.runner import run_job
from umim.errors import StoreError, UntrustedStoreError
from umim.progress import ProgressReader
from umim.settings import RedisSettings, StoreSettings, StoreSetupSettings
from umim.training.reporter import Clock as JobClock
from umim_operator.credentials import Mint

OURS, OTHER = Authority("ours"), Authority("another")
SERVICE = "umim-minio.umim-system.svc"
HOUR = timedelta(hours=1)
JOB = InitJobConfig(
    round_namespace="federation",
    round_name="round",
    round_uid="uid",
    attempt=1,
    architecture="vit_tiny_patch16_224",
    image_size=64,
    init="random",
    optimisation=OptimisationSpec(),
    work_path="/work",
)
QUICK = RetryPolicy(attempts=2, first_wait_seconds=0.01, longest_wait_seconds=0.02)
KEY = contract.model_manifest_key("0" * 64)
UNTRUSTED: dict[str, tuple[Pair, str | None, str]] = {
    "another authority": (OURS.issue(), OTHER.pem, r"set objectStore\.ca of charts/umim \(UMIM_S3_CA\)"),
    "the system's authorities": (OURS.issue(), None, r"set objectStore\.ca of charts/umim \(UMIM_S3_CA\)"),
    "expired": (OURS.issue(ends=EXPIRED), OURS.pem, "a certificate has expired: renew that of the server"),
    "another host": (OURS.issue([SERVICE]), OURS.pem, r"is for another host \(.*'127\.0\.0\.1'\)"),
}


@pytest.fixture(scope="module")
def serve(minio_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Pair], StoreSettings]]:
    """Runs MinIO with a certificate; it ends with the module."""
    with ExitStack() as stack:

        def start(pair: Pair) -> StoreSettings:
            folder = tmp_path_factory.mktemp("minio-tls")
            pair.write(folder / "certificates/public.crt", folder / "certificates/private.key")
            return stack.enter_context(minio(minio_binary, folder, free_port(), folder / "certificates"))

        yield start


@pytest.fixture(scope="module")
def trusted(serve: Callable[[Pair], StoreSettings]) -> StoreSettings:
    """A MinIO whose CA is known, set up for a federation."""
    settings = serve(OURS.issue([LOOPBACK, SERVICE])).model_copy(update={"ca": OURS.pem})
    provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=60)
    return settings


def test_a_store_whose_ca_is_known_is_used_and_mints_credentials(trusted: StoreSettings) -> None:
    store = MinioStore.from_settings(trusted, QUICK)
    assert store.put("rounds/tls/a", b"sealed", if_absent=True) is True
    assert store.get("rounds/tls/a") == b"sealed"
    minted = Mint(trusted, None).issue(JOB, datetime.now(UTC) + HOUR, HOUR)
    assert minted[contract.ENV_S3_SESSION_TOKEN]


def test_a_forwarded_store_must_hold_the_name_of_its_service(trusted: StoreSettings) -> None:
    named = trusted.model_copy(update={"server_name": SERVICE})
    assert MinioStore.from_settings(named, QUICK).stat(KEY) is None
    wrong = trusted.model_copy(update={"server_name": "umim-minio.elsewhere.svc"})
    with pytest.raises(UntrustedStoreError, match=r"is for another host \(.*'umim-minio\.elsewhere\.svc'\)"):
        MinioStore.from_settings(wrong, QUICK).stat(KEY)


def test_a_store_with_tls_takes_no_plain_connection(trusted: StoreSettings) -> None:
    plain = trusted.model_copy(update={"endpoint": trusted.endpoint.replace("https", "http")})
    with pytest.raises(StoreError, match="failed"):
        MinioStore.from_settings(plain, QUICK).get(KEY)


@pytest.mark.parametrize("case", UNTRUSTED)
def test_a_store_that_cannot_be_trusted_is_refused_at_once_with_what_to_do(
    serve: Callable[[Pair], StoreSettings], case: str
) -> None:
    pair, ca, message = UNTRUSTED[case]
    settings = serve(pair).model_copy(update={"ca": ca})
    with pytest.raises(UntrustedStoreError, match=message):
        MinioStore.from_settings(settings).get(KEY)
    with pytest.raises(UntrustedStoreError, match=message):
        provision(StoreSetupSettings(store=settings, admin=ADMIN), patience_seconds=600)
    with pytest.raises(UntrustedStoreError, match=message):
        Mint(settings, None).issue(JOB, datetime.now(UTC) + HOUR, HOUR)


def test_a_job_with_a_foreign_ca_ends_with_the_reason_and_one_with_the_right_ca_delivers(
    trusted: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    job = JOB.model_copy(update={"architecture": "test_vit", "image_size": 32, "work_path": str(tmp_path / "work")})

    def run(ca: str) -> tuple[int, str]:
        env = {
            contract.ENV_CONFIG: manifest_bytes(job).decode(),
            contract.ENV_S3_ENDPOINT: trusted.endpoint,
            contract.ENV_S3_BUCKET: trusted.bucket,
            contract.ENV_S3_CA: ca,
            **Mint(trusted, None).issue(job, datetime.now(UTC) + HOUR, HOUR),
        }
        said = tmp_path / "termination-log"
        said.write_text("")
        code = run_job(partial(pretrain.main, clock=JobClock()), "umim-init", env, said)
        return code, said.read_text()

    code, message = run(OTHER.pem)
    assert code == StoreError.exit_code
    assert re.search(UNTRUSTED["another authority"][2], message)
    assert run(OURS.pem) == (0, "")
    assert read_job_result(MinioStore.from_settings(trusted, QUICK), JOB.round_uid, "init") is not None


def test_a_store_without_tls_is_not_taken_for_one_with(minio_server: MinioServer) -> None:
    settings = minio_server.settings
    secure = settings.model_copy(update={"endpoint": settings.endpoint.replace("http", "https"), "ca": OURS.pem})
    with pytest.raises(UntrustedStoreError, match="does not speak TLS on this port: check scheme and port in object"):
        MinioStore.from_settings(secure, QUICK).get(KEY)


def mount(folder: Path, number: int, pair: Pair) -> None:
    """Write a certificate as the kubelet does into the volume of a Secret: it exchanges a link to a folder."""
    pair.write(folder / f"..{number}/public.crt", folder / f"..{number}/private.key")
    (folder / "new").symlink_to(f"..{number}")
    (folder / "new").rename(folder / "..data")
    for name in ("public.crt", "private.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_a_renewed_certificate_is_served_without_a_restart_and_a_bundle_carries_clients_over(
    minio_binary: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "certificates"
    mount(volume, 1, OURS.issue())
    with minio(minio_binary, tmp_path, free_port(), volume) as settings:
        before, after = (settings.model_copy(update={"ca": authority.pem}) for authority in (OURS, OTHER))
        both = settings.model_copy(update={"ca": OURS.pem + OTHER.pem})
        provision(StoreSetupSettings(store=both, admin=ADMIN), patience_seconds=60)
        assert MinioStore.from_settings(before, QUICK).stat(KEY) is None
        mount(volume, 2, OTHER.issue())

        def renewed() -> None:
            assert MinioStore.from_settings(after, QUICK).stat(KEY) is None

        READY(renewed)
        assert MinioStore.from_settings(both, QUICK).stat(KEY) is None
        with pytest.raises(UntrustedStoreError, match="is not signed by an authority"):
            MinioStore.from_settings(before, QUICK).stat(KEY)


@pytest.fixture
def serve_redis(redis_binary: str, tmp_path: Path) -> Iterator[Callable[[Pair], RedisSettings]]:
    """Runs Redis as the chart does, with TLS alone; it ends with the test."""
    with ExitStack() as stack:

        def start(pair: Pair) -> RedisSettings:
            port = free_port()
            pair.write(tmp_path / "tls.crt", tmp_path / "tls.key")
            stack.enter_context(redis_server(redis_binary, tmp_path, port, tmp_path))
            return RedisSettings(url=f"rediss://{LOOPBACK}:{port}/0")

        yield start


def test_progress_goes_to_a_redis_whose_ca_is_known(serve_redis: Callable[[Pair], RedisSettings]) -> None:
    settings = serve_redis(OURS.issue([LOOPBACK, SERVICE])).model_copy(update={"ca": OURS.pem})
    for secure in (settings, settings.model_copy(update={"server_name": SERVICE})):
        with ProgressReader(secure) as reader, publisher(secure, Clock()) as job:
            assert reader.problem() is None
            assert job.publish(report(1))
            assert reader.latest("0b2f", ["hospital-a.radiology"]).available


def test_a_redis_with_tls_takes_no_plain_connection(serve_redis: Callable[[Pair], RedisSettings]) -> None:
    secure = serve_redis(OURS.issue())
    plain = secure.model_copy(update={"url": secure.url.replace("rediss", "redis")})
    with ProgressReader(plain) as reader, publisher(plain, Clock()) as job:
        assert reader.problem() is not None
        assert not job.publish(report(1))


@pytest.mark.parametrize("case", UNTRUSTED)
def test_a_redis_that_cannot_be_trusted_gets_nothing_and_the_log_says_what_to_do(
    serve_redis: Callable[[Pair], RedisSettings], case: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair, ca, message = UNTRUSTED[case]
    message = message.replace("objectStore", "redis").replace("UMIM_S3_CA", "UMIM_REDIS_CA")
    settings = serve_redis(pair).model_copy(update={"ca": ca})
    with ProgressReader(settings) as reader, publisher(settings, Clock()) as job:
        problem = reader.problem()
        assert problem is not None
        assert re.search(message, problem)
        assert not job.publish(report(1))
    assert re.search(f"live progress is off for now: Redis cannot be trusted: .*{message}", caplog.text)


def test_the_systems_authorities_are_not_trusted_beside_a_ca(
    serve_redis: Callable[[Pair], RedisSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.pem"
    system.write_text(OURS.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    settings = serve_redis(OURS.issue())
    with ProgressReader(settings) as reader:
        assert reader.problem() is None
    with ProgressReader(settings.model_copy(update={"ca": OTHER.pem})) as reader:
        assert reader.problem() is not None
