"""The executor's own rules: what it asks for and when, and what happens when one of many actions fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim import contract
from umim.api.round import FederationRoundStatus, SiteStatus
from umim.artifacts.manifests import manifest_bytes
from umim.artifacts.memory import MemoryStore
from umim.settings import TelemetrySettings
from umim.telemetry import start
from umim_operator import observe
from umim_operator.actors import Everything, Outlook
from umim_operator.config import JobDefaults
from umim_operator.credentials import Mint
from umim_operator.executor import Executor, outlook
from umim_operator.hospitals import Hospitals
from umim_operator.kube import ForbiddenError, Kube, MissingError
from umim_operator.measures import Measures
from umim_operator.state import JobReference

Object = dict[str, Any]
DEFAULTS = JobDefaults("trainer", "aggregator", "IfNotPresent", "umim-server", {})


class Server:
    """An API server that holds one round, and the requests that it got."""

    def __init__(self, round_: Object) -> None:
        self.round = round_
        self.requests: list[str] = []
        self.jobs: list[Object] = []
        self.refused: set[str] = set()
        """Namespaces that take no Secret."""

    def get(self, kind: str, namespace: str, name: str) -> Object:
        self.requests.append(f"get {kind}")
        if kind == "FederationRound":
            return self.round
        if kind == "Hospital":
            spec = make.hospital_spec().to_dict()
            return {"metadata": {"namespace": namespace, "name": name, "generation": 1}, "spec": spec}
        raise MissingError(404, f"no {kind} {name}")

    def each(
        self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[Object]:
        self.requests.append(f"list {kind}")
        assert (namespace, labels) == (None, {"umim.dev/round-uid": make.UID})
        yield from self.jobs

    def list(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        assert namespace
        assert labels
        self.requests.append(f"list {kind}")
        return []

    def recreate(self, body: Object, kind: str) -> None:
        place = body["metadata"]["namespace"]
        self.requests.append(f"create {kind} in {place}")
        if place in self.refused:
            raise ForbiddenError(403, f"{kind}s is forbidden in {place}")

    def ensure(self, body: Object, kind: str) -> None:
        self.requests.append(f"ensure {kind} in {body['metadata']['namespace']}")

    def create(self, body: Object, kind: str) -> Object:
        self.requests.append(f"create {kind}")
        return body

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.requests.append(f"delete {kind} in {namespace}")
        assert name

    def replace_status(self, kind: str, seen: Object, status: Object) -> Object:
        self.requests.append(f"status {kind}")
        self.round = {**seen, "status": status}
        return self.round


class NoMint(Mint):
    """Gives every Job the same."""

    def __init__(self) -> None:
        """Ask nobody."""

    def revoke(self, *_: object) -> None:
        """There is nothing to revoke."""

    def issue(self, *_: object) -> dict[str, str]:
        return {"UMIM_S3_ACCESS_KEY": "key"}


def executor(
    server: Server, store: MemoryStore | None = None, clock: Callable[[], datetime] = lambda: make.NOW
) -> Executor:
    kube = cast(Kube, server)
    return Executor(
        kube=kube,
        hospitals=Hospitals(kube, lambda: 0.0),
        store=store or MemoryStore(),
        mint=NoMint(),
        progress=None,
        measures=Measures(start(TelemetrySettings(), "test", "0"), clock),
        defaults=DEFAULTS,
        clock=clock,
    )


def body(status: FederationRoundStatus, **spec: Any) -> Object:
    meta = {"namespace": make.FEDERATION, "name": "stage-1", "uid": make.UID, "generation": 1}
    meta["creationTimestamp"] = "2026-03-01T12:00:00Z"
    return {"metadata": meta, "spec": make.spec(**spec).to_dict(), "status": status.to_dict()}


def test_a_finished_round_costs_one_read_a_look() -> None:
    round_ = make.spec(retries=0)
    status, seen = make.training(round_)
    failed = make.step(round_, status, make.ended(seen, failed=(A, B))).status
    server = Server(body(failed.model_copy(update={"trace_id": "t"}), retries=0))
    assert executor(server).reconcile(make.FEDERATION, "stage-1").hospitals == ()
    assert server.requests == ["get FederationRound"]


def test_a_launch_that_is_refused_does_not_stop_the_others() -> None:
    server = Server(body(make.accepted(make.spec())))
    server.refused = {"hospital-b"}
    again = executor(server).reconcile(make.FEDERATION, "stage-1").again
    assert again == timedelta(seconds=30)
    launched = sorted(request for request in server.requests if request.startswith("ensure Job"))
    assert launched == ["ensure Job in hospital-a", "ensure Job in hospital-c"]
    phases = {site["name"]: site["phase"] for site in server.round["status"]["sites"]}
    assert phases == {A: "Running", B: "Backoff", C: "Running"}


def test_an_action_that_fails_is_raised_when_all_others_are_done() -> None:
    done: list[int] = []
    slow = threading.Event()

    def act(number: int) -> int:
        if number == 0:
            raise ValueError("the first")
        if number == 1:
            slow.wait(5)
        done.append(number)
        slow.set()
        return number

    made = executor(Server({}))
    with pytest.raises(ValueError, match="the first"):
        made._all(act, range(6))
    assert sorted(done) == [1, 2, 3, 4, 5], "none goes on after the look"
    assert made._all(act, range(1, 4)) == [1, 2, 3], "answers come in the order of the items"


def test_an_update_that_is_committed_counts_when_the_deadline_passes_during_a_look() -> None:
    round_ = make.spec()
    status, seen = make.training(round_)
    server, store = Server(body(status)), MemoryStore()
    server.jobs = [active(job.site) for job in seen.jobs]
    for site in (A, B):
        store.put(contract.update_manifest_key(make.UID, site, 1), manifest_bytes(make.update(site)))
    deadline = make.NOW + timedelta(minutes=30)
    times = iter([deadline - 2 * make.SECOND] * 2)  # when the look begins, and when it reads
    looking = executor(server, store, lambda: next(times, deadline + make.SECOND))
    for _ in range(2):
        looking.reconcile(make.FEDERATION, "stage-1")
    phases = {site["name"]: site["phase"] for site in server.round["status"]["sites"]}
    assert phases == {A: "Succeeded", B: "Succeeded", C: "Late"}


def test_workloads_are_asked_for_in_turns_where_many_jobs_wait_for_quota() -> None:
    names = [f"hospital-{number:03d}.ct" for number in range(60)]
    round_ = make.spec(participants={"hospitals": [make.reference(name).to_dict() for name in names], "quorum": 1})
    where = [make.reference(name) for name in names]
    sites = [
        SiteStatus(name=one.site, namespace=one.namespace, hospital=one.name, phase="Queued", attempt=1)
        for one in where
    ]
    status = make.accepted(round_).model_copy(update={"sites": sites})
    server = Server(body(status))
    server.jobs = [active(name) for name in names]
    for job in server.jobs:
        job["spec"], job["status"] = {"suspend": True}, {}
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "umim"
        job["metadata"]["uid"] = job["metadata"]["name"]
    view = observe.round_view(server.round)
    found = executor(server)._jobs(view, make.NOW, late=False)
    assert server.requests.count("list Workload") == observe.PODS_AT_ONCE
    assert sum(job.explained for job in found) == observe.PODS_AT_ONCE
    assert all(job.suspended for job in found)


def test_the_progress_user_of_an_attempt_whose_job_somebody_deleted_goes_too() -> None:
    revoked: list[tuple[object, ...]] = []
    status, seen = make.training(make.spec())
    looking = executor(Server({}))
    looking._mint.revoke = lambda *who: revoked.append(who)  # type: ignore[method-assign]
    first = seen.jobs[0]
    looking._retire(make.view(make.spec(), status), JobReference(first.namespace, first.name), None, delete_job=False)
    assert revoked == [(make.UID, A, 1)]


def active(site: str) -> Object:
    """A Job that runs."""
    found = make.job("site", site)
    marks = {contract.LABEL_ROLE: "site", contract.LABEL_ATTEMPT: "1", contract.LABEL_ROUND_UID: make.UID}
    meta = {"name": found.name, "namespace": found.namespace, "labels": marks}
    meta |= {"annotations": {contract.ANNOTATION_SITE: site}, "creationTimestamp": "2026-03-01T12:00:00Z"}
    return {"metadata": meta, "status": {"active": 1, "ready": 1}}


# what a round waits for


def test_a_round_that_is_not_accepted_waits_for_models_and_for_the_hospitals_that_it_names() -> None:
    found = outlook(make.view(make.spec()), FederationRoundStatus(), None)
    assert found == Outlook(None, frozenset({A, B, C}), models=True)


def test_a_round_with_a_selector_waits_for_every_hospital_until_it_is_accepted() -> None:
    spec = make.spec(participants={"hospitals": None, "selector": {"matchLabels": {"a": "b"}}})
    assert isinstance(outlook(make.view(spec), FederationRoundStatus(), None).hospitals, Everything)
    accepted = make.accepted(make.spec())
    assert outlook(make.view(spec), accepted, None) == Outlook(None, frozenset({A, B, C}))


def test_a_site_that_has_delivered_makes_its_hospital_matter_no_longer() -> None:
    status, _ = make.training(make.spec())
    status = make.with_site(status, A, phase="Succeeded")
    assert outlook(make.view(make.spec()), status, None).hospitals == {B, C}


def test_a_round_whose_training_is_finished_waits_for_no_hospital_and_no_model() -> None:
    status, _ = make.trained(make.spec())
    assert outlook(make.view(make.spec()), status, make.SECOND) == Outlook(make.SECOND)
