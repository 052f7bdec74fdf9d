"""``python -m tests.benchmarks.operator``: the operator under load, against a real API server. See ``page``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.cluster.progress import Progress
from hack.cluster.settings import KUBERNETES_VERSION
from hack.testenv.otlp import receiving
from tests.benchmarks.operator.federation import Federation, Watcher
from tests.benchmarks.operator.kubelet import SIGNING_KEY
from tests.benchmarks.operator.measure import AuditLog, Sampler
from tests.benchmarks.operator.plane import HOST, plane
from tests.benchmarks.operator.report import summary, write
from tests.benchmarks.operator.scenario import Bench, Load, kubelet, operator
from umim.artifacts.signing import Signer

START_SECONDS, TRAIN_SECONDS = 1.0, 5.0


def loads(quick: bool) -> list[Load]:
    """Return what is asked of the operator, one after the other."""
    rounds, large, alone = (10, 100, 2) if quick else (100, 1000, 5)
    eights = tuple(tuple(range(8 * number, 8 * number + 8)) for number in range(rounds))
    return [
        Load("alone", eights[:alone], at_once=False, limit_seconds=40),
        Load("crowd", eights, at_once=True, limit_seconds=600),
        Load("throttled", eights[: max(2, rounds // 10)], at_once=True, limit_seconds=300, throttled=True),
        Load("large", (tuple(range(large)),), at_once=True, limit_seconds=600),
    ]


def main() -> None:
    """Run all loads and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--only", choices=("alone", "crowd", "throttled", "large"), action="append")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    given = parser.parse_args()
    progress = Progress()
    todo = [load for load in loads(given.quick) if not given.only or load.name in given.only]
    found = measured(todo, progress)
    write(found, given.out)
    print(json.dumps(found["summary"], allow_nan=False))


def measured(todo: list[Load], progress: Progress) -> dict[str, Any]:
    """Start everything, run the loads, and return what was measured."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="umim-operator-bench-")))
        with progress.step("starting etcd, API server, MinIO and Redis"):
            servers = stack.enter_context(plane(folder, progress))
        federation = Federation(servers)
        federation.install()
        signer = Signer.new()
        (folder / "kubelet").mkdir()
        (folder / "kubelet" / SIGNING_KEY).write_text(signer.to_pem())
        count = 1 + max(number for load in todo for sites in load.rounds for number in sites)
        with progress.step(f"making {count} hospitals"):
            federation.hospitals(count, signer.public_key)
        receiver = stack.enter_context(receiving(HOST))
        jobs = stack.enter_context(kubelet(servers, START_SECONDS, TRAIN_SECONDS))
        process = stack.enter_context(operator(servers, receiver))
        sampler = Sampler(process.pid)
        stack.enter_context(sampler.running())
        audit = AuditLog(servers.audit_log)
        bench = Bench(servers, federation, Watcher(servers), receiver, sampler, audit, jobs)
        results = {}
        for load in todo:
            with progress.step(f"{load.name}: {len(load.rounds)} rounds of {len(load.rounds[0])} hospitals"):
                try:
                    results[load.name] = bench.run(load)
                except BaseException:
                    for log in ("operator.log", "kubelet.log"):
                        text = (folder / log).read_text()[-6000:]
                        print(f"--- {log}\n{text}", file=sys.stderr)
                    raise
    return {
        "summary": summary(results),
        "loads": results,
        "pod_start_s": START_SECONDS,
        "training_s": TRAIN_SECONDS,
        "kubernetes": KUBERNETES_VERSION,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
