"""The page docs/benchmarks/operator.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

TITLES = {
    "alone": "one round at a time",
    "crowd": "all rounds created at once",
    "throttled": "the same, and the API server rejects what is too much (429)",
    "large": "one round",
}


def page(found: Found) -> str:
    """Return the page of a result."""
    lines = [
        "# The operator under load",
        "",
        "<!-- Written by `make benchmark-operator`. Do not edit. -->",
        "",
        *_summary(found),
        *_setting(found),
        *_loads(found),
        "![Looks and memory](operator.png)",
        "",
        *_requests(found),
        *_throttling(found),
        *_surroundings(found),
    ]
    return "\n".join(lines)


def _summary(found: Found) -> Iterator[str]:
    summary = found["summary"]
    yield _row(["figure", "value", "what it is"])
    yield _ruler(3)
    yield _row(
        [
            "`api_calls_per_site`",
            _number(summary["api_calls_per_site"]),
            "requests of the operator to the API server, all together, by site that trained (watches not counted)",
        ]
    )
    yield _row(
        [
            "`p99_reconcile_s`",
            _number(summary["p99_reconcile_s"]),
            "99th percentile of the duration of one look at a round, in the worst of the loads that are not throttled",
        ]
    )
    yield _row(["`operator_rss_mib`", _number(summary["operator_rss_mib"]), "most resident memory of the operator"])
    yield _row(
        [
            "`overhead_s_round_of_8`",
            _number(summary["overhead_s_round_of_8"]),
            "median over rounds alone: time from the creation of the round to its end as a watch sees it, less the "
            "longest training and the aggregation; the aim is 2 s",
        ]
    )
    yield ""
    yield "Every number: [operator.json](operator.json)."
    yield ""


def _setting(found: Found) -> Iterator[str]:
    yield "## What is real"
    yield ""
    yield (
        f"- Real: kube-apiserver {found['kubernetes']} and etcd with the CRDs and the operator's rights of the charts, "
        "MinIO with minted credentials, Redis, and the operator: a process of its own, started as in its image, with "
        "the user and groups of its ServiceAccount."
    )
    yield (
        "- Not real: there is no kubelet, scheduler or controller and no Pod. A test kubelet watches the Jobs. It "
        f"reads each Job's Secret, says after {found['pod_start_s']:g} s that the Pod is ready, reports progress to "
        f"Redis as the Job's user, and {found['training_s']:g} s later commits a signed update to MinIO under the "
        "Job's credentials. The training is a wait. The aggregator is the real one, run in the test kubelet, on a "
        "model of 288 values: the operator reads manifests and never a tensor."
    )
    yield ("- A variable of 128 KiB, with which Linux would not start a program, fails the Job here, too.")
    yield (
        "- After each load everything is checked, or the benchmark fails: every round complete, each site succeeded in "
        "its first attempt with exactly one Job, the model equal to the weighted mean of the updates, no Secret left."
    )
    yield (
        "- Requests are counted in the API server's own audit log, memory and CPU in /proc, looks by the operator's "
        "spans (`umim.reconcile`), waits by its metric `umim.operator.reconcile.wait`."
    )
    yield ""


def _loads(found: Found) -> Iterator[str]:
    yield "## Loads"
    yield ""
    yield _row(
        [
            "load",
            "rounds x hospitals",
            "wall s",
            "overhead s, median (most)",
            "requests a site",
            "look s, p50 / p99",
            "wait s, p99 at most",
            "memory MiB",
            "CPU s, operator / API server",
            "load average",
        ]
    )
    yield _ruler(10)
    for name, row in found["loads"].items():
        looks, overhead = row["reconcile_s"], row["overhead_s"]
        yield _row(
            [
                f"{name}: {TITLES[name]}",
                f"{row['rounds']} x {row['sites'] // row['rounds']}",
                _number(row["wall_s"]),
                f"{_number(overhead['median'])} ({_number(overhead['max'])})",
                _number(row["api"]["calls_per_site"]),
                f"{_number(looks['p50'])} / {_number(looks['p99'])}",
                _number(row["wait_s"]["p99_at_most"]),
                _number(row["operator"]["rss_mib_most"]),
                f"{_number(row['operator']['cpu_s'])} / {_number(row['cpu_s']['kube-apiserver'])}",
                _number(row["host"]["load_average_1_min"]),
            ]
        )
    yield ""
    yield (
        "A look is one call of the operator's reconcile function, after it has read the round. Wait: from the change "
        "that made a look necessary to the begin of the look, with the pause of 0.3 s in which changes that come "
        "together are looked at together. A look launches at most 50 Jobs and deals with at most 50 that have ended, "
        "so that the status of a large round is never far behind. The overhead of a large round is mostly these "
        "launches, a few at once: the longest training is that of one site."
    )
    yield ""
    if (large := found["loads"].get("large")) is not None:
        yield (
            f"The round of {large['sites']} hospitals has {large['round_bytes'] / 1000:.0f} kB as JSON at its end; "
            "etcd takes 1.5 MiB."
        )
        yield ""


def _requests(found: Found) -> Iterator[str]:
    kinds = sorted({kind for row in found["loads"].values() for kind in row["api"]["by_kind"]})
    busy = [
        kind
        for kind in kinds
        if not kind.startswith("watch ")
        and max(row["api"]["by_kind"].get(kind, 0) / row["sites"] for row in found["loads"].values()) >= 0.05
    ]
    yield "## Requests a site"
    yield ""
    yield _row(["request", *found["loads"]])
    yield _ruler(1 + len(found["loads"]))
    for kind in busy:
        shares = [row["api"]["by_kind"].get(kind, 0) / row["sites"] for row in found["loads"].values()]
        yield _row([kind, *(f"{share:.2f}" for share in shares)])
    yield ""
    yield "Requests of less than 0.05 a site in every load are left out here; they are in the JSON file."
    yield ""


def _throttling(found: Found) -> Iterator[str]:
    row = found["loads"].get("throttled")
    if row is None:
        return
    told = row["api"]["throttling"]
    yield "## An API server that has enough"
    yield ""
    yield (
        "In the load `throttled` a FlowSchema gives the operator a priority level of its own with one share, which "
        f"rejects at once (API Priority and Fairness). {told['rejected']} requests were answered with 429 and "
        f"`Retry-After: 1`; {told['tried_again']} of them were seen again as the same request, the soonest after "
        f"{told['shortest_wait_s']:.3f} s. All rounds completed. The benchmark fails where none is rejected or one "
        "comes again within a second."
    )
    yield ""


def _surroundings(found: Found) -> Iterator[str]:
    stolen = max(row["host"]["stolen_share"] for row in found["loads"].values())
    idle = min(row["host"]["idle_share"] for row in found["loads"].values())
    yield "## Machine"
    yield ""
    yield (
        f"{found['cores']} cores for everything, Python {found['python']}, {found['time']}. The load average says what "
        f"else ran; at the worst {idle:.0%} of the CPU time was idle and {stolen:.1%} stolen by the host. Times on a "
        "busy machine are upper bounds; counts of requests hardly depend on it."
    )
    yield ""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ruler(columns: int) -> str:
    return "|---" * columns + "|"
