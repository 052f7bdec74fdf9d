"""``umim preflight``: each check fails for its cause and says its remedy; what may not be looked at is skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.unit.cli.samples import hospital_object
from umim import checks
from umim.artifacts.memory import MemoryStore
from umim.artifacts.store import ObjectInfo
from umim.checks import Check, State
from umim.cli import preflight
from umim.cli.kube import Cluster, ClusterError
from umim.cli.main import app
from umim.cli.resources import Hospital, parse_hospital
from umim.errors import AccessDeniedError, NotFoundError, StoreError

HOSPITAL = parse_hospital(hospital_object("a", "neuro"))
QUOTA = ("umim", {"pods": "8", "requests.cpu": "8", "requests.nvidia.com/gpu": "1"}, {"pods": "1"})


class FakeCluster:
    """A cluster in which all is well, but for what a test changes."""

    namespace = "federation"
    version = (1, 34)
    served = checks.KINDS
    replicas: tuple[int, int] | None = (1, 1)
    gpus: Mapping[str, int] = {"node-1": 2}
    hospital_list: tuple[Hospital, ...] = (HOSPITAL,)
    quota_list: tuple[Any, ...] = (QUOTA,)
    claim_phases: Mapping[str, str] = {"images": "Bound", "site-work": "Bound"}
    redis_url = "redis://redis.example:6379/0"
    denied: tuple[tuple[str, str], ...] = ()
    """Namespace and resource that nobody may touch."""

    def server_version(self) -> tuple[int, int]:
        return self.version

    def served_resources(self) -> list[str]:
        return list(self.served)

    def operator_replicas(self, _namespace: str) -> tuple[int, int] | None:
        return self.replicas

    def operator_account(self, _namespace: str) -> str | None:
        return "umim-operator"

    def may(self, namespace: str, _verb: str, _group: str, resource: str, user: str | None = None) -> bool:
        assert user in (None, "system:serviceaccount:umim-system:umim-operator")
        return (namespace, resource) not in self.denied

    def hospitals(self, _namespace: str | None) -> list[Hospital]:
        return list(self.hospital_list)

    def quotas(self, _namespace: str) -> list[Any]:
        return list(self.quota_list)

    def claims(self, _namespace: str) -> Mapping[str, str]:
        return self.claim_phases

    def allocatable(self, _resource: str) -> Mapping[str, int]:
        return self.gpus

    def operator_environment(self, _namespace: str, _prefix: str = "") -> dict[str, str]:
        return {"UMIM_REDIS_URL": self.redis_url} if self.redis_url else {}


class Damaged(MemoryStore):
    def stat(self, key: str) -> ObjectInfo | None:
        raise AccessDeniedError(f"the keys may not read {key}")


def report(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, *arguments: str, store: Any = None, redis: str | None = None
) -> Any:
    @contextmanager
    def opened(*_: Any) -> Any:
        if isinstance(store, Exception):
            raise store
        yield store or MemoryStore()

    monkeypatch.setattr(Cluster, "connect", lambda _context: cluster)
    monkeypatch.setattr(preflight, "open_store", opened)
    monkeypatch.setattr(preflight, "_redis_problem", lambda _settings: redis)
    return CliRunner().invoke(app, ["preflight", *arguments], catch_exceptions=False)


def states(done: Any) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(done.stdout)}


def changed(**values: Any) -> FakeCluster:
    cluster = FakeCluster()
    for name, value in values.items():
        assert hasattr(cluster, name)
        setattr(cluster, name, value)
    return cluster


def test_a_ready_cluster_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    done = report(monkeypatch, FakeCluster(), "-o", "json")
    assert done.exit_code == 0, done.output
    assert {name: one["state"] for name, one in states(done).items()} == dict.fromkeys(
        [
            "cluster",
            "resources",
            "operator",
            "your rights",
            "hospitals",
            "operator's rights in federation",
            "operator's rights in hospital-a",
            "quota in federation",
            "quota in hospital-a",
            "volumes of hospital-a.neuro",
            "store",
            "Redis",
            "GPU",
        ],
        "ok",
    )


@pytest.mark.parametrize(
    ("cluster", "failed", "remedy"),
    [
        (changed(version=(1, 29)), "cluster", "upgrade the cluster to Kubernetes 1.30"),
        (changed(served=("hospitals",)), "resources", "install or upgrade charts/umim"),
        (changed(replicas=None), "operator", "--operator-namespace"),
        (changed(replicas=(0, 1)), "operator", "read its log"),
        (changed(replicas=(0, 0)), "operator", "scale its Deployment"),
        (changed(denied=(("federation", "federationrounds"),)), "your rights", "RoleBinding"),
        (changed(hospital_list=()), "hospitals", "charts/umim-hospital with hospital.federations [federation]"),
        (changed(denied=(("federation", "jobs"),)), "operator's rights in federation", "federations.namespaces"),
        (changed(denied=(("hospital-a", "secrets"),)), "operator's rights in hospital-a", "charts/umim-hospital"),
        (
            changed(quota_list=(("umim", {"pods": "1"}, {"pods": "1"}),)),
            "quota in hospital-a",
            "raise the ResourceQuota",
        ),
        (changed(claim_phases={"images": "Bound"}), "volumes of hospital-a.neuro", "data.claimName"),
        (changed(redis_url="http://nonsense"), "Redis", "redis of charts/umim"),
    ],
)
def test_what_is_wrong_fails_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, failed: str, remedy: str
) -> None:
    done = report(monkeypatch, cluster, "-o", "json")
    assert done.exit_code == 1
    assert failed in done.stderr
    one = states(done)[failed]
    assert one["state"] == "failed"
    assert remedy in one["remedy"]
    assert f"-> {one['remedy']}" in report(monkeypatch, cluster).stdout


@pytest.mark.parametrize("store", [Damaged(), StoreError("no answer")])
def test_a_store_that_refuses_its_keys_or_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    done = report(monkeypatch, FakeCluster(), "-o", "json", store=store)
    assert done.exit_code == 1
    assert "objectStore" in states(done)["store"]["remedy"]


def test_a_silent_redis_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    done = report(monkeypatch, FakeCluster(), "-o", "json", redis="no answer")
    found = states(done)["Redis"]
    assert (found["state"], "no answer" in found["found"]) == ("failed", True)


@pytest.mark.parametrize(
    ("cluster", "name"),
    [
        (changed(gpus={}), "GPU"),
        (changed(redis_url=""), "Redis"),
        (changed(claim_phases={"images": "Bound", "site-work": "Pending"}), "volumes of hospital-a.neuro"),
    ],
)
def test_what_training_can_do_without_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, name: str
) -> None:
    done = report(monkeypatch, cluster, "-o", "json")
    assert done.exit_code == 0
    assert states(done)[name]["state"] == "warning"
    assert states(done)[name]["remedy"]


def test_what_may_not_be_looked_at_is_skipped_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(FakeCluster):
        def hospitals(self, _namespace: str | None) -> list[Hospital]:
            raise AccessDeniedError("you may not")

        def allocatable(self, _resource: str) -> Mapping[str, int]:
            raise AccessDeniedError("you may not read the nodes")

        def operator_account(self, _namespace: str) -> str | None:
            raise AccessDeniedError("you may not")

    done = report(monkeypatch, Closed(), "-o", "json", store=AccessDeniedError("you may not read the Secret"))
    assert done.exit_code == 0
    skipped = {name for name, one in states(done).items() if one["state"] == "skipped"}
    assert skipped == {"hospitals", "GPU", "store"}


def test_a_hospital_that_did_not_consent_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    other = parse_hospital(hospital_object("b", "thorax", federations=["elsewhere"]))
    done = report(monkeypatch, changed(hospital_list=(HOSPITAL, other)), "-o", "json")
    assert not any("hospital-b" in name for name in states(done))


def test_a_cluster_that_does_not_answer_ends_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(FakeCluster):
        def server_version(self) -> tuple[int, int]:
            raise ClusterError("does not answer")

    assert report(monkeypatch, Gone()).exit_code == 69


def test_a_redis_in_the_cluster_without_a_ready_pod_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(FakeCluster):
        redis_url = "redis://umim-redis.umim-system.svc:6379/0"

        def endpoint_pod(self, _namespace: str, _service: str, port: int) -> tuple[str, int]:
            assert port == 6379
            raise NotFoundError("no ready Pod")

    assert "no ready Pod" in states(report(monkeypatch, Empty(), "-o", "json"))["Redis"]["found"]


@pytest.mark.parametrize(
    ("hard", "used", "state"),
    [
        ({"requests.cpu": "1500m"}, {"requests.cpu": "500m"}, State.ok),
        ({"requests.cpu": "1500m"}, {"requests.cpu": "501m"}, State.failed),
        ({"memory": "4Gi"}, {"memory": "2Gi"}, State.ok),
        ({"limits.memory": "4Gi"}, {"limits.memory": "1Mi"}, State.failed),
        ({"count/jobs.batch": "0"}, {}, State.ok),
        ({"pods": "1e3"}, {}, State.ok),
    ],
)
def test_a_quota_fails_when_a_default_job_does_not_fit(
    hard: dict[str, str], used: dict[str, str], state: State
) -> None:
    assert preflight.quota_check("ns", [("umim", hard, used)]).state is state


def test_the_report_for_a_person() -> None:
    console = Console(width=80, record=True, file=StringIO())
    checks = [
        Check("cluster", State.ok, "Kubernetes 1.34", "not shown"),
        Check("GPU", State.warning, "none", "install [a] plugin"),
    ]
    console.print(preflight.checks_table(checks))
    shown = [line.strip() for line in console.export_text().splitlines() if line.strip()]
    assert shown[0].split() == ["CHECK", "STATE", "FOUND"]
    assert [line.split(maxsplit=2) for line in shown[2:4]] == [
        ["cluster", "ok", "Kubernetes 1.34"],
        ["GPU", "warning", "none"],
    ]
    assert shown[4] == "-> install [a] plugin"
    assert len(shown) == 5
