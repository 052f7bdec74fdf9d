"""Everything between operator, Jobs, store and Redis is under TLS, and a CA can be renewed while rounds run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hack.testenv.api import Object
from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import (
    FEDERATION,
    MINIO,
    OPERATOR,
    PREFIX,
    REDIS,
    RELEASE,
    SYSTEM,
    Platform,
)
from hack.testenv.waiting import wait_until
from tests.authority import Authority
from tests.e2e.conftest import Launch
from umim import contract
from umim.artifacts.files import sha256_of
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.errors import StoreError, UntrustedStoreError
from umim.progress import ProgressReader

pytestmark = pytest.mark.alone("it changes the certificates of MinIO and Redis")

ONCE = RetryPolicy(attempts=1)
KEY = contract.model_manifest_key("0" * 64)
ADVICE = "set objectStore.ca of charts/umim (UMIM_S3_CA) to the certificate of its CA"


def environment(workload: Object) -> dict[str, str]:
    """Return the plain variables of a Job's or Deployment's container."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"] if "value" in item}


def upgrade(platform: Platform) -> None:
    """Upgrade the release with the values that it has."""
    platform.helm.install(RELEASE, "umim", SYSTEM, {}, keep_values=True, wait=True)


def pods(platform: Platform, server: str) -> list[str]:
    """Return the UIDs of the Pods of MinIO or Redis."""
    labels = {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": server.split("-", 1)[1]}
    return sorted(pod["metadata"]["uid"] for pod in platform.api.select("Pod", SYSTEM, labels))


@contextmanager
def kept_objects(platform: Platform, folder: Path) -> Iterator[None]:
    """Put back what the store held: that of the tests keeps nothing when its Pod starts anew."""
    store = platform.store()
    held = [item.key for item in store.list("")]
    for number, key in enumerate(held):
        store.download(key, folder / str(number))
    yield
    store = platform.store()
    for number, key in enumerate(held):
        if store.stat(key) is None:
            store.upload(folder / str(number), key)


def test_the_store_takes_no_plain_connection(platform: Platform) -> None:
    settings = platform.store_settings()
    assert MinioStore.from_settings(settings, ONCE).stat(KEY) is None
    plain = settings.model_copy(update={"endpoint": settings.endpoint.replace("https://", "http://")})
    with pytest.raises(StoreError):
        MinioStore.from_settings(plain, ONCE).stat(KEY)


def test_redis_takes_no_plain_connection(platform: Platform) -> None:
    settings = platform.redis_settings()
    with ProgressReader(settings) as reader:
        assert reader.problem() is None
    with ProgressReader(settings.model_copy(update={"url": settings.url.replace("rediss://", "redis://")})) as reader:
        assert reader.problem() is not None
    assert platform.redis().config_get("port") == {"port": "0"}


def test_a_store_under_another_name_or_of_another_authority_is_not_trusted(platform: Platform) -> None:
    settings = platform.store_settings()
    for change in ({"server_name": None}, {"ca": None}, {"ca": platform.authority(REDIS)}):
        with pytest.raises(UntrustedStoreError):
            MinioStore.from_settings(settings.model_copy(update=change), ONCE).stat(KEY)


def test_an_upgrade_keeps_certificates_and_starts_no_server_anew(platform: Platform) -> None:
    def seen() -> list[Any]:
        return [(platform.secret(SYSTEM, f"{server}-tls"), pods(platform, server)) for server in (MINIO, REDIS)]

    before = seen()
    upgrade(platform)
    assert seen() == before


def test_a_round_completes_over_tls_and_its_model_is_fetched_through_the_kubernetes_api(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site], tmp_path: Path
) -> None:
    made = launch("over-tls", *sites[:2])
    made.wait_phase("Complete")
    told = [environment(job) for job in made.jobs()]
    assert len(told) == 3
    for env in told:
        assert env[contract.ENV_S3_ENDPOINT] == f"https://{MINIO}.{SYSTEM}.svc:9000"
        assert env[contract.ENV_S3_CA] == platform.authority(MINIO)
        assert env[contract.ENV_REDIS_URL].startswith(f"rediss://{REDIS}.{SYSTEM}.svc:6379")
        assert env[contract.ENV_REDIS_CA] == platform.authority(REDIS)
    name, digest = made.status["globalModel"]["name"], made.model()["spec"]["digest"]
    pulled = platform.run_umim("models", "pull", name, "-n", FEDERATION, "--dir", str(tmp_path / "model"))
    assert pulled.returncode == 0, pulled.stderr
    assert sha256_of(tmp_path / "model" / contract.MODEL_FILE) == digest


@contextmanager
def mistrusting(platform: Platform) -> Iterator[None]:
    """The operator is told another CA than the one that signed the store's certificate, while the block runs."""

    def tell(ca: str) -> None:
        container = {"name": "operator", "env": [{"name": contract.ENV_S3_CA, "value": ca}]}
        patch = json.dumps({"spec": {"template": {"spec": {"containers": [container]}}}})
        platform.run_kubectl("patch", "deployment", OPERATOR, "-n", SYSTEM, "--patch", patch)
        platform.wait_ready(OPERATOR)

    tell(Authority("a stranger").pem)
    try:
        yield
    finally:
        tell(platform.authority(MINIO))


def test_an_operator_that_cannot_trust_the_store_says_so_on_the_round_and_in_preflight_and_goes_on_once_it_can(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    with mistrusting(platform):
        made = launch("mistrusted", sites[0])

        def complaints() -> list[Object]:
            events = [one for one in platform.api.select("Event", FEDERATION) if one["reason"] == "StoreNotTrusted"]
            return [one for one in events if one["involvedObject"].get("uid") == made.uid]

        (event,) = wait_until("an event about the store", lambda: complaints() or None, 60, made.dump)
        assert event["type"] == "Warning"
        assert ADVICE in event["message"]
        assert made.jobs() == []
        done = platform.run_umim("preflight", "-n", FEDERATION, "--operator-namespace", SYSTEM, "-o", "json")
        store = next(one for one in json.loads(done.stdout) if one["name"] == "store")
        assert (done.returncode, store["state"]) == (1, "failed")
        assert ADVICE in store["found"]
        assert len(complaints()) == 1
    made.wait_phase("Complete")


def test_with_a_renewed_ca_a_waiting_job_says_what_is_wrong_and_the_next_attempt_and_round_complete(
    platform: Platform,
    launch: Launch,
    hospitals: Hospitals,
    sites: tuple[Site, Site, Site],
    tmp_path: Path,
) -> None:
    site = hospitals.add(f"{PREFIX}-renewed", gate=True)
    made = launch("renewed", site)
    made.wait_site(site, "Running")
    before = {server: platform.authority(server) for server in (MINIO, REDIS)}
    with kept_objects(platform, tmp_path):
        for server in before:
            platform.api.delete("Secret", SYSTEM, f"{server}-tls")
        upgrade(platform)
    after = {server: platform.authority(server) for server in before}
    assert all(before[server] != after[server] for server in before)
    hospitals.open_gate(site)
    failed = made.wait_site(site, "Backoff")
    assert (failed["reason"], failed["attempt"]) == ("JobFailed", 1)
    assert ADVICE in failed["message"]
    made.wait_phase("Complete")
    assert made.site(site)["attempt"] == 2
    (second,) = [job for job in made.jobs(site.namespace) if environment(job)[contract.ENV_S3_CA] == after[MINIO]]
    assert second["metadata"]["labels"][contract.LABEL_ATTEMPT] == "2"
    next_ = launch("after-renewal", *sites[:2])
    next_.wait_phase("Complete")
