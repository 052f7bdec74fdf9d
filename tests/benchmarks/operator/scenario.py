"""One load on the operator: starts rounds, waits for their ends, checks every result, and counts what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import urllib3
from safetensors.torch import load_file

from hack.testenv.otlp import Receiver
from tests.benchmarks.operator import measure
from tests.benchmarks.operator.federation import FEDERATION, HOSPITAL, ROOT, Federation, Watcher, namespace
from tests.benchmarks.operator.measure import MIB, AuditLog, HostState, Sampler
from tests.benchmarks.operator.plane import KUBELET_USER, OPERATOR_USER, Plane
from tests.benchmarks.operator.tensors import merged
from tests.contract.servers import READY, free_port, running
from umim import contract
from umim.artifacts.minio import MinioStore

Object = dict[str, Any]
FLUSH_SECONDS = 11.0
"""After which the operator has sent its spans (every 5 s) and its metrics (every 10 s)."""
TOLERANCE = 1e-5
RETRY_AFTER_SECONDS = 1.0
"""What the API server asks for when it rejects a request."""


@dataclass(frozen=True)
class Load:
    """What is asked of the operator."""

    name: str
    rounds: tuple[tuple[int, ...], ...]
    """Hospitals of each round by number."""
    at_once: bool
    """Whether all rounds are created together, or each when the one before has ended."""
    limit_seconds: float
    throttled: bool = False
    """Whether the API server rejects much of what the operator asks."""


class CheckError(AssertionError):
    """A round's result is not what it must be."""


@contextmanager
def operator(plane: Plane, receiver: Receiver) -> Iterator[subprocess.Popen[bytes]]:
    """Run the operator as its image does, as a process of its own with the rights of the charts."""
    port = free_port()
    command = [sys.executable, "-m", "kopf", "run", "--all-namespaces", f"--liveness=http://127.0.0.1:{port}/healthz"]
    env = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        **plane.environment(),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
        "KUBECONFIG": str(plane.kubeconfigs[OPERATOR_USER]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
    }
    log = plane.folder / "operator.log"
    with running([*command, "-m", "umim_operator.handlers"], log, env) as process:

        def healthy() -> None:
            assert process.poll() is None, f"the operator ended: {log.read_text()[-2000:]}"
            with urllib3.PoolManager(retries=False, timeout=5) as pool:
                assert pool.request("GET", f"http://127.0.0.1:{port}/healthz").status == 200

        READY(healthy)
        yield process


@contextmanager
def kubelet(plane: Plane, start_seconds: float, train_seconds: float) -> Iterator[Path]:
    """Run the test kubelet as a process of its own; gives the file with what became of the Jobs."""
    folder, out, log = plane.folder / "kubelet", plane.folder / "jobs.jsonl", plane.folder / "kubelet.log"
    command = [
        *(sys.executable, "-m", "tests.benchmarks.operator.kubelet"),
        *("--kubeconfig", str(plane.kubeconfigs[KUBELET_USER]), "--folder", str(folder), "--out", str(out)),
        *("--start-seconds", str(start_seconds), "--train-seconds", str(train_seconds)),
    ]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}", "OMP_NUM_THREADS": "1"}
    with running(command, log, env) as process:

        def started() -> None:
            assert process.poll() is None, f"the test kubelet ended: {log.read_text()[-2000:]}"
            assert out.exists(), "the test kubelet does not start"

        READY(started)
        yield out


@dataclass
class Bench:
    """What the loads run on."""

    plane: Plane
    federation: Federation
    watcher: Watcher
    receiver: Receiver
    sampler: Sampler
    audit: AuditLog
    jobs: Path

    def run(self, load: Load) -> Object:
        """Run a load and return what was measured. Raises CheckError, TimeoutError."""
        with self.federation.throttled() if load.throttled else nullcontext():
            return self._run(load)

    def _run(self, load: Load) -> Object:
        waits, busy = measure.waits(self.receiver), self._cpu()
        host, before = HostState.now(), time.time()
        self.audit.skip()
        created = self._start(load)
        self.watcher.wait(created, load.limit_seconds)
        after = time.time()
        time.sleep(FLUSH_SECONDS)
        requests = self.audit.read()
        machine = HostState.now().since(host)
        check(self, load, created)
        jobs = self._jobs(created)
        ends = {name: self.watcher.ended[name][0] for name in created}
        overheads = [ends[name] - at - _longest(jobs[uid]) for name, (at, uid) in created.items()]
        samples = self.sampler.between(before, after)
        sites = sum(len(sites) for sites in load.rounds)
        calls = [event for event in requests if event["verb"] != "watch"]
        throttling = measure.throttling(requests)
        if load.throttled:
            _check_throttling(throttling)
        looks = measure.reconciles(self.receiver, before, after)
        return {
            "rounds": len(load.rounds),
            "sites": sites,
            "round_bytes": len(json.dumps(self.federation.round(next(iter(created))))),
            "at_once": load.at_once,
            "wall_s": round(max(ends.values()) - before, 2),
            "overhead_s": {"median": round(median(overheads), 3), **measure.spread(overheads)},
            "operator": _process(samples),
            "api": {
                "calls": len(calls),
                "calls_per_site": round(len(calls) / sites, 2),
                "by_kind": measure.requests_by_kind(requests),
                "codes": measure.codes(requests),
                "throttling": throttling,
            },
            "reconcile_s": measure.spread([seconds for _, seconds in looks]),
            "wait_s": measure.waited(waits, measure.waits(self.receiver)),
            "cpu_s": {name: round(seconds - busy[name], 1) for name, seconds in self._cpu().items()},
            "host": machine,
            "series": _series(samples, looks, before),
        }

    def _cpu(self) -> dict[str, float]:
        """Return the CPU time of the servers since their start."""
        found = {name: measure.look_at(pid) for name, pid in self.plane.processes.items()}
        return {name: sample.cpu_seconds for name, sample in found.items() if sample is not None}

    def _start(self, load: Load) -> dict[str, tuple[float, str]]:
        """Create the rounds. Returns time and UID by name."""
        created: dict[str, tuple[float, str]] = {}
        for number, sites in enumerate(load.rounds):
            name = f"{load.name}-{number:03d}"
            now = time.time()
            created[name] = (now, self.federation.start(name, sites))
            if not load.at_once:
                self.watcher.wait([name], load.limit_seconds)
        return created

    def _jobs(self, created: dict[str, tuple[float, str]]) -> dict[str, list[Object]]:
        """Return what the kubelet told, by round."""
        uids = {uid for _, uid in created.values()}
        found: dict[str, list[Object]] = defaultdict(list)
        for line in self.jobs.read_text().splitlines():
            job = json.loads(line)
            if job["round"] in uids:
                found[job["round"]].append(job)
        return found


def _longest(jobs: Sequence[Object]) -> float:
    """Return the time of the longest training plus that of the aggregation."""
    return sum(
        max((job["ended"] - job["seen"] for job in jobs if job["role"] == role), default=0.0)
        for role in ("site", "aggregate")
    )


def _process(samples: Sequence[measure.Sample]) -> Object:
    seconds = samples[-1].time - samples[0].time
    cpu = samples[-1].cpu_seconds - samples[0].cpu_seconds
    return {
        "rss_mib_before": round(samples[0].rss_bytes / MIB, 1),
        "rss_mib_most": round(max(sample.rss_bytes for sample in samples) / MIB, 1),
        "cpu_s": round(cpu, 2),
        "cpus": round(cpu / seconds, 3),
    }


def _series(samples: Sequence[measure.Sample], looks: Sequence[tuple[float, float]], start: float) -> Object:
    """Return what the plots show: memory by time, and duration of each look by its start."""
    return {
        "rss_mib": [[round(sample.time - start, 1), round(sample.rss_bytes / MIB, 1)] for sample in samples],
        "reconcile_s": [[round(at - start, 2), round(seconds, 3)] for at, seconds in looks],
    }


# checks ---------------------------------------------------------------------------------------------


def check(bench: Bench, load: Load, created: dict[str, tuple[float, str]]) -> None:
    """Raise CheckError unless every round is complete, with each site once and the right model, and nothing is left."""
    store = MinioStore.from_settings(bench.plane.store)
    jobs = bench._jobs(created)
    for (name, (_, uid)), sites in zip(created.items(), load.rounds, strict=True):
        body = bench.federation.round(name)
        _check_status(name, body["status"], sites)
        roles = sorted(job["role"] for job in jobs[uid])
        _equal(f"Jobs of {name}", roles, ["aggregate", *["site"] * len(sites)])
        _check_model(bench, store, name, body["status"]["globalModel"], sites)
    secrets = bench.federation.api().select("Secret", labels={contract.LABEL_MANAGED_BY: contract.MANAGED_BY})
    _equal("Secrets left", [item["metadata"]["name"] for item in secrets], [])


def _check_throttling(found: Object) -> None:
    if not found["rejected"] or not found["tried_again"]:
        raise CheckError(f"the API server did not throttle the operator, nothing was shown: {found}")
    if found["shortest_wait_s"] < RETRY_AFTER_SECONDS:
        raise CheckError(f"a rejected request came again too soon: {found}, Retry-After is {RETRY_AFTER_SECONDS} s")


def _check_status(name: str, status: Object, sites: Sequence[int]) -> None:
    _equal(f"phase of {name}", (status["phase"], status["reason"]), ("Complete", "Published"))
    names = sorted(f"{namespace(number)}.{HOSPITAL}" for number in sites)
    _equal(f"sites of {name}", sorted(site["name"] for site in status["sites"]), names)
    found = {(site["phase"], site["attempt"], site.get("failures", 0)) for site in status["sites"]}
    _equal(f"phases, attempts and failures of the sites of {name}", found, {("Succeeded", 1, 0)})


def _check_model(bench: Bench, store: MinioStore, name: str, model: Object, sites: Sequence[int]) -> None:
    spec = bench.federation.api().get("GlobalModel", FEDERATION, model["name"])["spec"]
    names = sorted(f"{namespace(number)}.{HOSPITAL}" for number in sites)
    _equal(f"contributors of {name}", [item["site"] for item in spec["contributors"]], names)
    path = bench.plane.folder / "check.safetensors"
    store.download(spec["objectKey"], path)
    tensors, wanted = load_file(path), merged(sites)
    _equal(f"tensors of {name}", sorted(tensors), sorted(wanted))
    for tensor, values in wanted.items():
        away = float((tensors[tensor].double() - values).abs().max())
        if away > TOLERANCE:
            raise CheckError(f"tensor {tensor} of {name} is {away} away from the weighted mean of its sites")


def _equal(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise CheckError(f"{what}: {found!r}, must be {wanted!r}")
