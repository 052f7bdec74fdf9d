"""``helm test``: each check fails for its cause, says its remedy, and one that fails makes the exit status 1."""

from __future__ import annotations

from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest

from umim.artifacts.memory import MemoryStore
from umim.artifacts.minio import MinioStore
from umim.checks import KINDS, Check, State
from umim.errors import AccessDeniedError
from umim_operator import selftest
from umim_operator.kube import ForbiddenError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ENV = {
    "UMIM_S3_ENDPOINT": "http://store:9000",
    "UMIM_S3_BUCKET": "umim",
    "UMIM_S3_ACCESS_KEY": "a",
    "UMIM_S3_SECRET_KEY": "b",
}
HOSPITAL = {"metadata": {"namespace": "hospital-a", "name": "radiology"}, "spec": {"federations": ["federation"]}}


class FakeKube:
    """A cluster in which all is well, but for what a test changes."""

    hospitals: tuple[dict[str, Any], ...] = (HOSPITAL,)
    denied: tuple[tuple[str, str], ...] = ()
    kinds: tuple[str, ...] = KINDS
    lists = True

    def version(self) -> tuple[int, int]:
        return 1, 34

    def served(self, _group: str, _version: str) -> list[str]:
        return list(self.kinds)

    def may(self, namespace: str, _verb: str, _group: str, resource: str) -> bool:
        return (namespace, resource) not in self.denied

    def list(self, kind: str) -> tuple[dict[str, Any], ...]:
        assert kind == "Hospital"
        if not self.lists:
            raise ForbiddenError(403, "hospitals.umim.dev is forbidden")
        return self.hospitals


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MinioStore, "from_settings", lambda *_: MemoryStore())
    monkeypatch.setattr(selftest, "assume_role", lambda *_: None)


def run(kube: FakeKube, env: dict[str, str] | None = None) -> dict[str, Check]:
    found = selftest.run(kube, ["federation"], ENV if env is None else env, NOW)  # type: ignore[arg-type]
    return {one.name: one for one in found}


def test_a_platform_without_redis_passes_with_a_warning() -> None:
    out = StringIO()
    assert selftest.report(iter(run(FakeKube()).values()), out) == 0
    states = {one.name: one.state for one in run(FakeKube()).values()}
    assert states.pop("Redis") is State.warning
    assert set(states.values()) == {State.ok}
    assert "ok       credentials of Jobs: the store mints temporary ones\n" in out.getvalue()
    assert "         -> check redis of charts/umim" in out.getvalue()


def test_a_federation_without_the_operators_rights_fails_and_names_the_value_to_set() -> None:
    kube = FakeKube()
    kube.denied = (("federation", "jobs"),)
    found = run(kube)["operator's rights in federation"]
    assert (found.state, found.found) == (State.failed, "it may not create jobs, delete jobs")
    assert "federations.namespaces" in found.remedy


def test_missing_resource_definitions_fail() -> None:
    kube = FakeKube()
    kube.kinds = KINDS[:2]
    assert run(kube)["resources"].state is State.failed


def test_an_account_without_rights_fails_instead_of_a_traceback() -> None:
    kube = FakeKube()
    kube.lists = False
    found = run(kube)["hospitals"]
    assert (found.state, found.found) == (State.failed, "hospitals.umim.dev is forbidden")


def test_hospitals_that_consent_to_another_federation_do_not_count() -> None:
    kube = FakeKube()
    kube.hospitals = ({**HOSPITAL, "spec": {"federations": ["other"]}},)
    assert run(kube)["hospitals"].state is State.warning


def test_a_store_that_mints_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AccessDeniedError("the store mints no credentials: AccessDenied")

    monkeypatch.setattr(selftest, "assume_role", refuse)
    checks = run(FakeKube())
    assert checks["store"].state is State.ok
    assert checks["credentials of Jobs"].state is State.failed
    assert selftest.report(iter(checks.values()), StringIO()) == 1


def test_a_missing_variable_is_named() -> None:
    found = run(FakeKube(), {key: value for key, value in ENV.items() if key != "UMIM_S3_BUCKET"})["store"]
    assert found.state is State.failed
    assert "UMIM_S3_BUCKET" in found.found


def test_a_redis_that_does_not_answer_fails() -> None:
    found = run(FakeKube(), {**ENV, "UMIM_REDIS_URL": "redis://127.0.0.1:1/0"})["Redis"]
    assert (found.state, found.found) == (
        State.failed,
        "redis://127.0.0.1:1/0 does not answer or refuses the operator",
    )
