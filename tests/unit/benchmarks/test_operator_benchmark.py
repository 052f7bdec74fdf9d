"""How the benchmark of the operator counts, and what its page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.operator import measure
from tests.benchmarks.operator.measure import AuditLog, Buckets
from tests.benchmarks.operator.page import page
from tests.benchmarks.operator.report import summary, write
from tests.benchmarks.operator.tensors import merged, samples, variant

Object = dict[str, Any]


def event(verb: str, second: float, code: int = 200, name: str = "a", **changes: Any) -> Object:
    time = f"2026-03-01T12:00:{second:09.6f}Z"
    return {
        "verb": verb,
        "stage": "ResponseComplete",
        "requestURI": f"/api/v1/namespaces/x/secrets/{name}?limit=500",
        "objectRef": {"resource": "secrets"},
        "requestReceivedTimestamp": time,
        "stageTimestamp": time,
        "responseStatus": {"code": code},
        **changes,
    }


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [measure.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert measure.percentile([7.0], 0.99) == 7.0


def test_the_audit_log_counts_each_request_once_and_a_watch_when_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    log.skip()
    lines = [event("get", 1), event("watch", 2, stage="ResponseStarted"), event("watch", 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:1]))
    assert len(log.read()) == 1
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines[1:])
    assert [found["stage"] for found in log.read()] == ["ResponseStarted"]


def test_requests_are_told_apart_by_what_they_are_for() -> None:
    status: Object = {"objectRef": {"resource": "jobs", "subresource": "status"}}
    other: Object = {"objectRef": {}, "requestURI": "/api/v1?timeout=3s"}
    found = measure.requests_by_kind(
        [event("get", 1), event("get", 2), event("patch", 3, **status), event("get", 4, **other)]
    )
    assert found == {"get secrets": 2, "patch jobs/status": 1, "get /api/v1": 1}


def test_the_time_between_a_rejection_and_the_next_try_is_that_of_the_same_request() -> None:
    events = [
        event("get", 1, 429),
        event("get", 1.5, name="b"),
        event("get", 3.25),
        event("get", 3.5),
        event("create", 4, 429),
        event("create", 4.1),
        event("get", 5, 429, name="base", objectRef={"resource": "globalmodels"}),
        event("get", 5.1, name="base", objectRef={"resource": "globalmodels"}),
    ]
    assert measure.throttling(events) == {"rejected": 3, "tried_again": 1, "shortest_wait_s": 2.25}
    assert measure.throttling(events[1:2]) == {"rejected": 0, "tried_again": 0, "shortest_wait_s": None}


def test_waits_are_those_between_two_histograms() -> None:
    bounds = (0.1, 0.5, 1.0)
    before, after = Buckets(bounds, (5, 0, 0, 0)), Buckets(bounds, (5, 98, 1, 1))
    assert measure.waited(before, after) == {"count": 100, "p50_at_most": 0.5, "p99_at_most": 1.0}
    assert measure.waited(Buckets(), Buckets(bounds, (0, 0, 0, 1)))["p99_at_most"] is None


def test_the_expected_model_is_the_mean_weighted_by_images() -> None:
    name = "norm.weight"
    weights = samples(0), samples(1)
    mean = (weights[0] * variant(0)[name].double() + weights[1] * variant(1)[name].double()) / sum(weights)
    assert merged([0, 1])[name].tolist() == pytest.approx(mean.tolist())
    assert merged([0, 8])[name].tolist() == pytest.approx(variant(0)[name].tolist())


def row(**changes: Any) -> Object:
    return {
        "rounds": 2,
        "sites": 16,
        "round_bytes": 9000,
        "wall_s": 10.0,
        "overhead_s": {"median": 1.0, "max": 1.5},
        "operator": {"rss_mib_most": 100.0, "cpu_s": 2.0},
        "api": {
            "calls": 160,
            "calls_per_site": 10.0,
            "by_kind": {"get secrets": 160, "watch jobs": 1},
            "codes": {"200": 160},
            "throttling": {"rejected": 3, "tried_again": 3, "shortest_wait_s": 1.005},
        },
        "reconcile_s": {"p50": 0.1, "p99": 0.4},
        "wait_s": {"p99_at_most": 0.5},
        "cpu_s": {"kube-apiserver": 5.0, "etcd": 1.0},
        "host": {"load_average_1_min": 2.0, "stolen_share": 0.01, "idle_share": 0.2},
        "series": {"rss_mib": [[0.0, 90.0], [1.0, 100.0]], "reconcile_s": [[0.5, 0.1]]},
        **changes,
    }


def result(**loads: Object) -> Object:
    about = {"kubernetes": "v1", "python": "3", "cores": 2, "time": "now", "pod_start_s": 1.0, "training_s": 5.0}
    return {"summary": summary(loads), "loads": loads, **about}


def test_the_summary_is_over_all_loads_that_are_not_throttled() -> None:
    large = row(sites=1000, api={**row()["api"], "calls": 5000}, reconcile_s={"p50": 1.0, "p99": 3.0})
    throttled = row(api={**row()["api"], "calls": 9000}, reconcile_s={"p50": 1.0, "p99": 60.0})
    assert summary({"alone": row(), "throttled": throttled, "large": large}) == {
        "api_calls_per_site": round(5160 / 1016, 2),
        "p99_reconcile_s": 3.0,
        "operator_rss_mib": 100.0,
        "overhead_s_round_of_8": 1.0,
    }


def test_the_files_of_a_result_are_written_and_say_what_is_not_real(tmp_path: Path) -> None:
    found = result(alone=row(), throttled=row())
    write(found, tmp_path)
    assert json.loads((tmp_path / "operator.json").read_text())["summary"] == found["summary"]
    assert (tmp_path / "operator.png").stat().st_size > 1000
    text = (tmp_path / "operator.md").read_text()
    assert text == page(found)
    assert "Not real: there is no kubelet" in text
    assert "| get secrets | 10.00 | 10.00 |" in text
    assert "watch jobs" not in text
    assert "the soonest after 1.005 s" in text
