"""From API objects, in the shape that a real API server gives them, to the planner's values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.unit.operator import make
from tests.unit.operator.make import A, B, C
from umim.api.artifacts import HeadArtifact, UpdateManifest
from umim.api.round import FederationRoundStatus, SiteStatus
from umim_operator import observe
from umim_operator.state import DamagedManifest, JobView

LATER = make.NOW + 60 * make.SECOND


def job(*conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    """A Job of site A's second attempt."""
    return {
        "metadata": {
            "name": "stage-1-site-f0c5fc3dd4-2",
            "namespace": "hospital-a",
            "labels": {"umim.dev/role": "site", "umim.dev/attempt": "2", "umim.dev/round-uid": make.UID},
            "annotations": {"umim.dev/site": A, "batch.kubernetes.io/job-tracking": ""},
            "creationTimestamp": "2026-03-01T12:00:00Z",
        },
        "status": {"conditions": list(conditions), **status},
    }


def condition(type_: str, status: str = "True", **more: str) -> dict[str, Any]:
    return {"type": type_, "status": status, **more}


FAILED = condition("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")


def pod(state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    containers = [{"name": "site", "state": state}] if state is not None else []
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": containers, **status}}


def terminated(code: int, reason: str, message: str | None = None) -> dict[str, Any]:
    ended: dict[str, Any] = {"exitCode": code, "reason": reason}
    return pod({"terminated": ended | ({"message": message} if message is not None else {})}, phase="Failed")


# Jobs


def test_a_job_is_read_with_its_site_role_and_attempt() -> None:
    found = observe.job_view(job(), [])
    assert (found.name, found.namespace, found.role, found.site, found.attempt) == (
        "stage-1-site-f0c5fc3dd4-2",
        "hospital-a",
        "site",
        A,
        2,
    )


def test_a_job_of_the_server_has_no_site() -> None:
    body = job()
    del body["metadata"]["annotations"]
    body["metadata"]["labels"]["umim.dev/role"] = "aggregate"
    assert observe.job_view(body, []).site == ""


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        ([], "active"),
        ([condition("Suspended", "False"), condition("Failed", "False")], "active"),
        ([condition("FailureTarget")], "active"),
        ([condition("SuccessCriteriaMet"), condition("Complete")], "succeeded"),
        ([condition("SuccessCriteriaMet")], "succeeded"),
        ([condition("FailureTarget"), FAILED], "failed"),
    ],
)
def test_the_outcome_follows_from_the_jobs_conditions(conditions: list[dict[str, Any]], outcome: str) -> None:
    assert observe.job_view(job(*conditions), []).outcome == outcome


def test_a_job_without_status_is_active() -> None:
    body = job()
    del body["status"]
    assert observe.job_view(body, []).outcome == "active"
    assert observe.needs_pods(body, LATER)


def test_a_failed_container_says_why_in_its_termination_message() -> None:
    found = observe.job_view(job(FAILED), [terminated(65, "Error", "labels.csv: column label is missing\n")])
    assert (found.outcome, found.exit_code, found.message) == ("failed", 65, "labels.csv: column label is missing")


def test_a_container_that_was_killed_for_memory_is_told_apart() -> None:
    found = observe.job_view(job(FAILED), [terminated(137, "OOMKilled")])
    assert (found.exit_code, found.reason) == (137, "OOMKilled")
    assert found.message == "The container ended with exit code 137 (OOMKilled)."


def test_an_evicted_pod_says_why() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    found = observe.job_view(job(FAILED), [evicted])
    assert (found.exit_code, found.reason, found.message) == (
        None,
        "Evicted",
        "The node was low on resource: memory.",
    )


def test_a_failed_job_without_pods_gives_its_own_reason() -> None:
    late = condition("Failed", reason="DeadlineExceeded", message="Job was active longer than specified deadline")
    found = observe.job_view(job(late), [])
    assert (found.reason, found.message) == ("DeadlineExceeded", "Job was active longer than specified deadline")


def test_a_pod_that_finds_no_node_says_what_is_missing() -> None:
    text = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    unscheduled = condition("PodScheduled", "False", reason="Unschedulable", message=text)
    pending = pod(phase="Pending", conditions=[unscheduled])
    found = observe.job_view(job(active=1, ready=0), [pending])
    assert (found.outcome, found.reason, found.message) == ("active", "Unschedulable", text)


@pytest.mark.parametrize("reason", sorted(observe.WAITING_REASONS))
def test_a_pod_that_cannot_start_says_why(reason: str) -> None:
    waiting = pod({"waiting": {"reason": reason, "message": 'Back-off pulling image "x"'}}, phase="Pending")
    found = observe.job_view(job(active=1, ready=0), [waiting])
    assert (found.outcome, found.reason, found.message) == ("active", reason, 'Back-off pulling image "x"')


@pytest.mark.parametrize("state", [{"waiting": {"reason": "ContainerCreating"}}, {"running": {}}, {}])
def test_a_pod_that_is_starting_or_running_is_no_problem(state: dict[str, Any]) -> None:
    scheduled = pod(state, conditions=[condition("PodScheduled")])
    found = observe.job_view(job(active=1), [scheduled])
    assert (found.reason, found.message) == ("", "")


def test_a_succeeded_job_has_no_problem_whatever_its_pods_say() -> None:
    found = observe.job_view(job(condition("Complete")), [terminated(0, "Completed", "fine")])
    assert (found.outcome, found.exit_code, found.message) == ("succeeded", None, "")


def test_pods_are_read_only_where_they_can_explain_something() -> None:
    assert observe.needs_pods(job(active=1, ready=0), LATER)
    assert observe.needs_pods(job(FAILED), make.NOW)
    assert not observe.needs_pods(job(active=1, ready=1), LATER)
    assert not observe.needs_pods(job(condition("Complete")), LATER)


def test_a_pod_has_some_time_to_start_before_somebody_asks_why() -> None:
    assert not observe.needs_pods(job(active=1), make.NOW + 4 * make.SECOND)
    assert observe.needs_pods(job(active=1), make.NOW + 5 * make.SECOND)


def running(*names: str) -> FederationRoundStatus:
    """A status in which the first attempt of each site runs."""
    references = [make.reference(name) for name in names]
    return FederationRoundStatus(
        sites=[
            SiteStatus(name=one.site, namespace=one.namespace, hospital=one.name, phase="Running", attempt=1)
            for one in references
        ]
    )


def explained(*jobs: JobView, status: FederationRoundStatus, now: datetime = LATER) -> list[str]:
    return observe.explained(status, jobs, {one.name for one in jobs}, now)


def test_only_the_newest_attempt_of_what_runs_is_explained() -> None:
    status = running(A, B, C)
    sites = [status.sites[0], status.sites[1].model_copy(update={"phase": "Succeeded"}), status.sites[2]]
    status = status.model_copy(update={"sites": sites})
    old, new = make.job("site", A, 1, "failed"), make.job("site", A, 2)
    assert explained(old, new, make.job("site", B), status=status) == [new.name]


def test_a_job_whose_launch_is_not_on_record_is_explained() -> None:
    status = FederationRoundStatus()
    server = make.job("init", attempt=1, outcome="failed")
    assert explained(server, status=status) == [server.name]


def test_many_jobs_that_do_not_start_are_explained_in_turns_and_failed_ones_at_once() -> None:
    names = [f"hospital-{number:03d}.ct" for number in range(120)]
    jobs = [make.job("site", name) for name in names]
    failed = make.job("site", "hospital-x.ct", outcome="failed")
    status = running(*names, "hospital-x.ct")
    turns = [explained(*jobs, failed, status=status, now=LATER + 5 * turn * make.SECOND) for turn in range(3)]
    assert [turn[0] for turn in turns] == [failed.name] * 3
    assert [len(turn) for turn in turns] == [51] * 3
    assert set().union(*turns) == {job.name for job in jobs} | {failed.name}


# rounds and hospitals


def round_body(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "federation",
            "name": "stage-1",
            "uid": make.UID,
            "generation": 3,
            "creationTimestamp": "2026-03-01T11:00:00Z",
        },
        "spec": {**make.spec().to_dict(), **spec},
    }


def test_a_round_is_read_with_its_status() -> None:
    status = make.training(make.spec())[0]
    view = observe.round_view({**round_body(), "status": status.to_dict()})
    assert (view.namespace, view.name, view.uid, view.generation) == ("federation", "stage-1", make.UID, 3)
    assert view.spec == make.spec()
    assert view.status == status
    assert not view.deleting


def test_of_many_jobs_that_ended_together_some_are_left_to_the_next_look() -> None:
    names = [f"hospital-{number:03d}.ct" for number in range(60)]
    jobs = [make.job("site", name, outcome="succeeded") for name in names]
    left = observe.deferred(running(*names), [*jobs, make.job("aggregate", outcome="succeeded")])
    assert [job.site for job in left] == names[50:]
    assert {(job.outcome, job.explained, job.deferred) for job in left} == {("active", False, True)}


def test_ends_that_are_on_record_do_not_count() -> None:
    names = [f"hospital-{number:03d}.ct" for number in range(60)]
    jobs = [make.job("site", name, outcome="succeeded") for name in names]
    status = running(*names)
    sites = [site.model_copy(update={"phase": "Succeeded"}) for site in status.sites[:10]]
    assert observe.deferred(status.model_copy(update={"sites": [*sites, *status.sites[10:]]}), jobs) == []


def test_the_version_of_an_object_changes_with_its_spec_and_its_deletion_alone() -> None:
    meta = {"generation": 1, "resourceVersion": "7"}
    assert observe.version(meta) == observe.version({**meta, "resourceVersion": "8"})
    assert observe.version(meta) != observe.version({**meta, "generation": 2})
    assert observe.version(meta) != observe.version({**meta, "deletionTimestamp": "2026-03-01T12:00:00Z"})


def test_a_round_that_is_being_deleted_is_marked() -> None:
    body = round_body()
    body["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    assert observe.round_view(body).deleting


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"retries": -1}, "spec.retries"),
        ({"deadline": "soon"}, "spec.deadline"),
        ({"ttlAfterFinished": "99999999h"}, "spec.ttlAfterFinished"),
        ({"training": {"epochs": 0}}, "spec.training.epochs"),
        ({"extra": 1}, "spec.extra"),
    ],
)
def test_a_round_that_cannot_be_parsed_names_the_field(change: dict[str, Any], field: str) -> None:
    view = observe.round_view(round_body(**change))
    assert view.spec is None
    assert view.spec_error.startswith(field + ": ")
    with pytest.raises(ValueError, match=field):
        _ = view.valid_spec


def test_a_hospital_that_cannot_be_parsed_names_the_field() -> None:
    body = {"metadata": {"namespace": "hospital-a", "name": "radiology"}, "spec": {"federations": []}}
    found = observe.hospital_view(body)
    assert found.spec is None
    assert found.spec_error == "spec.data: Field required (and 1 more)"
    assert found.reference.site == A


def test_a_hospital_is_read() -> None:
    body = {
        "metadata": {"namespace": "hospital-a", "name": "radiology"},
        "spec": make.hospital_spec().to_dict(),
    }
    assert observe.hospital_view(body) == make.hospital(A)


# manifests

SITE = SiteStatus(name=A, namespace="hospital-a", hospital="radiology", attempt=1)


def read(data: bytes) -> UpdateManifest | DamagedManifest:
    return observe.update_or_damage(data, make.UID, SITE)


def test_a_committed_manifest_is_read() -> None:
    manifest = make.update(A)
    assert read(manifest.model_dump_json(by_alias=True).encode()) == manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"site": "hospital-b.x"}, 'has site "hospital-b.x", not "hospital-a.radiology"'),
        ({"attempt": 2}, "has attempt 2, not 1"),
        ({"round_uid": "another"}, 'has roundUid "another"'),
        ({"file": make.update("other.site").file}, "has file.key"),
        (
            {
                "head": HeadArtifact(
                    task_name="t", task="classification", classes=["a"], file=make.update("other.site").file
                )
            },
            "has head.file.key",
        ),
    ],
)
def test_a_manifest_about_something_else_is_damaged(change: dict[str, Any], words: str) -> None:
    found = read(make.update(A).model_copy(update=change).model_dump_json(by_alias=True).encode())
    assert isinstance(found, DamagedManifest)
    assert words in found.message


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"kind": "Update"}', b"null"])
def test_bytes_that_are_no_manifest_are_damaged(data: bytes) -> None:
    found = read(data)
    assert isinstance(found, DamagedManifest)
    assert found.message.startswith("The manifest of the update is damaged: ")


@pytest.mark.parametrize("metrics", [{f"m{i}": 0.0 for i in range(65)}, {"x" * 129: 0.0}])
def test_more_figures_than_a_status_can_hold_are_damaged(metrics: dict[str, float]) -> None:
    found = read(make.update(A).model_copy(update={"metrics": metrics}).model_dump_json(by_alias=True).encode())
    assert isinstance(found, DamagedManifest)
    assert "metrics" in found.message


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"loss_after":1.0', '"loss_after":NaN', "metrics.loss_after"),
        ('"loss_after":1.0', '"loss_after":Infinity', "metrics.loss_after"),
        ('"samples":100', '"samples":100000000000000000000', "samples"),
        ('"sizeBytes":1234', '"sizeBytes":9223372036854775808', "file.sizeBytes"),
    ],
)
def test_figures_that_the_api_server_cannot_store_are_damaged(old: str, new: str, field: str) -> None:
    text = make.update(A).model_dump_json(by_alias=True)
    assert old in text
    found = read(text.replace(old, new).encode())
    assert isinstance(found, DamagedManifest)
    assert field in found.message


def queued_job() -> dict[str, Any]:
    body = job()
    body["spec"] = {"suspend": True}
    body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "umim"
    return body


FULL = "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default, 1 more needed"


def test_a_suspended_job_says_what_kueue_says_of_it() -> None:
    workload = {"status": {"conditions": [condition("QuotaReserved", "False", reason="Pending", message=FULL)]}}
    found = observe.job_view(queued_job(), [], [workload])
    assert (found.outcome, found.suspended, found.message) == ("active", True, f"LocalQueue umim: {FULL}")


def test_a_suspended_job_of_which_kueue_says_nothing_says_where_to_look() -> None:
    silent: list[list[dict[str, Any]]] = [[], [{}], [{"status": {"conditions": [condition("QuotaReserved")]}}]]
    for workloads in silent:
        found = observe.job_view(queued_job(), [], workloads)
        assert found.message.startswith("The Job waits for Kueue to admit it from LocalQueue umim.")


def test_a_job_that_somebody_suspended_by_hand_says_so() -> None:
    body = queued_job()
    del body["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert "in no queue" in observe.job_view(body, []).message


def test_a_job_that_ended_is_not_suspended_whatever_its_spec_says() -> None:
    body = queued_job()
    body["status"]["conditions"] = [condition("Complete")]
    found = observe.job_view(body, [])
    assert (found.outcome, found.suspended) == ("succeeded", False)


def test_the_pods_of_a_suspended_job_are_not_asked_for() -> None:
    assert not observe.needs_pods(queued_job(), LATER)
