"""Pods of Jobs are killed for their memory, evicted, deleted."""

from __future__ import annotations

import time
from typing import Any

from hack.testenv.api import Object
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import Trial, World
from umim import contract


def _training(world: World, name: str, **spec: Any) -> Trial:
    """Return a round whose first hospital has trained at least one epoch."""
    trial = world.launch(name, **spec)
    trial.round.wait("an epoch", lambda _: any(report.epoch >= 1 for report in trial.round.reports(trial.sites[0])))
    return trial


@case("site-oom")
def site_oom(world: World) -> list[Row]:
    """The kernel kills a site's training for its memory, once."""
    longer = {"training": {"epochs": 200}}  # it must not end before the kernel kills it
    twin = world.twin("longer", **longer)
    trial = _training(world, "site-oom", **longer)
    site = trial.sites[0]
    world.job_process(trial, "site", site.namespace).exhaust()
    failed = trial.round.wait_site(site, "Backoff")
    assert failed["reason"] == "OutOfMemory", failed
    fault = "site Pod killed for its memory (OOMKilled), once"
    return [world.complete(trial, case="site-oom", fault=fault, phase="Training", twin=twin, reasons=["OutOfMemory"])]


@case("site-oom-always")
def site_oom_always(world: World) -> list[Row]:
    """A site's memory limit is too small for its training."""
    small = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    begin = time.monotonic()
    trial = world.launch("site-oom-always", resources=small, retries=1)
    names = ("OOMKilled", "resources.limits.memory", world.sites[0].name)
    fault = "site Pods killed for their memory (OOMKilled), always"
    return [
        world.failed(
            trial,
            case="site-oom-always",
            fault=fault,
            phase="Training",
            reason="QuorumNotReached",
            names=names,
            begin=begin,
        )
    ]


@case("site-evicted")
def site_evicted(world: World) -> list[Row]:
    """A site's Pod is evicted, as a drain of its node does it."""
    trial = _training(world, "site-evicted")
    site = trial.sites[0]
    for pod in trial.round.pods(site.namespace):
        world.platform.api.evict(site.namespace, pod["metadata"]["name"])
    return [world.complete(trial, case="site-evicted", fault="site Pod evicted (drain)", phase="Training")]


@case("site-deleted")
def site_deleted(world: World) -> list[Row]:
    """A site's Pod is deleted without a grace period."""
    trial = _training(world, "site-deleted")
    trial.round.kill_site(trial.sites[0])
    fault = "site Pod deleted without grace period"
    return [world.complete(trial, case="site-deleted", fault=fault, phase="Training")]


@case("site-job-deleted")
def site_job_deleted(world: World) -> list[Row]:
    """A site's Job is deleted."""
    trial = _training(world, "site-job-deleted")
    site = trial.sites[0]
    for job in trial.round.jobs(site.namespace):
        world.platform.api.delete("Job", site.namespace, job["metadata"]["name"])
    return [world.complete(trial, case="site-job-deleted", fault="site Job deleted", phase="Training")]


@case("aggregator-oom")
def aggregator_oom(world: World) -> list[Row]:
    """The kernel kills every aggregator of a round for its memory."""
    trial = world.launch("aggregator-oom", training={"epochs": 1}, retries=1)
    _exhaust_aggregator(world, trial.round, 1)
    begin = time.monotonic()
    _exhaust_aggregator(world, trial.round, 2)
    return [
        world.failed(
            trial,
            case="aggregator-oom",
            fault="aggregator killed for its memory (OOMKilled), always",
            phase="Aggregating",
            reason="AggregationFailed",
            names=("OOMKilled", "limits.memory"),
            begin=begin,
        )
    ]


@case("aggregator-deleted")
def aggregator_deleted(world: World) -> list[Row]:
    """The aggregator's Pod is deleted without a grace period, once."""
    trial = world.launch("aggregator-deleted", training={"epochs": 1})
    pod = _aggregator(trial.round, 1)
    world.platform.api.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], now=True)
    fault = "aggregator Pod deleted without grace period"
    twin = world.twin("short", training={"epochs": 1})
    return [world.complete(trial, case="aggregator-deleted", fault=fault, phase="Aggregating", twin=twin)]


def _exhaust_aggregator(world: World, round_: Round, attempt: int) -> None:
    pod = _aggregator(round_, attempt)
    process = wait_until(
        f"{round_.name}: the process of aggregator {attempt}", lambda: world.process_of(pod), 60, round_.dump
    )
    process.exhaust()


def _aggregator(round_: Round, attempt: int) -> Object:
    """Return the running aggregator Pod of an attempt."""

    def look() -> Object | None:
        for pod in round_.pods():
            labels = pod["metadata"]["labels"]
            mine = (labels[contract.LABEL_ROLE], labels[contract.LABEL_ATTEMPT]) == ("aggregate", str(attempt))
            if mine and pod["status"].get("phase") == "Running":
                return pod
        return None

    return wait_until(f"{round_.name}: aggregator {attempt} runs", look, 240, round_.dump)
