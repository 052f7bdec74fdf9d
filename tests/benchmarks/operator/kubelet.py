"""The test kubelet: ends the operator's Jobs as real Pods would, without Pods. A process of its own.

One shared watch over all Jobs. Of each Job it reads the Secret, as a kubelet does, and works with the credentials in it
only: live progress goes to Redis as the Job's user, the update to MinIO under the Job's session policy. A site trains
by waiting. The aggregator and the maker of start models are the real ones, run in this process.
Each Job that ends is one line of JSON in the file ``--out``.
"""

from __future__ import annotations

import argparse
import base64
import heapq
import itertools
import json
import logging
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from tests.benchmarks.operator.tensors import VARIANTS, samples, variant
from tests.benchmarks.operator.watching import Client
from umim import contract
from umim.api.jobs import SiteJobConfig
from umim.api.round import Progress
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.artifacts.models import publish_update
from umim.artifacts.signing import Signer
from umim.artifacts.writer import write_safetensors
from umim.entrypoints import aggregate, pretrain
from umim.progress import ProgressPublisher
from umim.settings import RedisSettings, StoreSettings, job_config
from umim.training.reporter import Clock

Object = dict[str, Any]
WORKERS = 6
TRIES = 5
LONGEST_VARIABLE = 32 * resource.getpagesize()
"""MAX_ARG_STRLEN of Linux: a program with a longer environment variable cannot be started."""
SIGNING_KEY = "signing.pem"
"""File with the key of all hospitals."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Times:
    """How long a Pod takes: until it runs, and until its training is done."""

    start: float
    train: float


@dataclass
class Running:
    """A Job on this kubelet."""

    body: Object
    seen: float
    env: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def role(self) -> str:
        """init, site or aggregate."""
        role: str = self.body["metadata"]["labels"][contract.LABEL_ROLE]
        return role


class Api:
    """The three things that the kubelet asks of the API server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def jobs(self) -> Iterator[Object]:
        """Return all Jobs of UMIM as they come, and again when they change, for ever."""
        return self._client.watch("/apis/batch/v1/jobs", f"labelSelector={contract.LABEL_ROUND_UID}")

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """Return the decoded data of a Secret; empty where there is none."""
        _, body = self._client.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()}

    def status(self, job: Object, status: Object) -> None:
        """Write fields of a Job's status."""
        meta = job["metadata"]
        path = f"/apis/batch/v1/namespaces/{meta['namespace']}/jobs/{meta['name']}/status"
        code, answer = self._client.request("PATCH", path, {"status": status})
        if code not in (200, 404):
            raise RuntimeError(f"status of Job {meta['name']}: {code} {answer.get('message')}")


class Kubelet:
    """Takes Jobs, and has each start and end at its time."""

    def __init__(self, api: Api, times: Times, folder: Path, out: TextIO) -> None:
        self._api = api
        self._times = times
        self._folder = folder
        self._out = out
        self._signer = Signer.from_pem(folder / SIGNING_KEY)
        self._due: list[tuple[float, int, Callable[[Running], None], Running]] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._pool = ThreadPoolExecutor(WORKERS)
        self._taken: set[str] = set()

    def take(self, job: Object) -> None:
        """Start a Job that is new here."""
        uid = job["metadata"]["uid"]
        if uid in self._taken or job.get("status", {}).get("conditions"):
            return
        self._taken.add(uid)
        self._at(time.time() + self._times.start, self._start, Running(job, time.time()))

    def run(self) -> None:
        """Do what is due, for ever."""
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.time():
                    self._changed.wait(self._due[0][0] - time.time() if self._due else None)
                _, _, step, job = heapq.heappop(self._due)
            self._pool.submit(self._step, step, job)

    def _at(self, when: float, step: Callable[[Running], None], job: Running) -> None:
        with self._changed:
            heapq.heappush(self._due, (when, next(self._numbers), step, job))
            self._changed.notify()

    def _step(self, step: Callable[[Running], None], job: Running) -> None:
        try:
            step(job)
        except Exception as error:  # noqa: BLE001 a Pod that dies is a Job that failed, and the others go on
            _log.exception("Job %s", job.body["metadata"]["name"])
            job.problem = f"{type(error).__name__}: {error}"
            self._end(job)

    def _start(self, job: Running) -> None:
        self._api.status(job.body, {"startTime": _now(), "active": 1, "ready": 1})
        job.env = self._environment(job.body)
        if job.role != "site":
            self._serve(job)
            return
        given = job_config(job.env, SiteJobConfig)
        stream = contract.progress_stream(given.round_uid, given.site)
        with ProgressPublisher(RedisSettings.from_env(job.env), stream, time.monotonic) as publisher:
            publisher.publish(_progress(), last=True)
        self._at(job.seen + self._times.start + self._times.train, self._train, job)

    def _environment(self, job: Object) -> dict[str, str]:
        """Return what the container would see. Raises OSError where Linux would not start it."""
        meta = job["metadata"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        env = {item["name"]: item["value"] for item in container["env"]}
        env |= self._api.secret(meta["namespace"], meta["name"])
        for name, value in env.items():
            if len(f"{name}={value}".encode()) >= LONGEST_VARIABLE:
                raise OSError(f"argument list too long: the environment variable {name} has {len(value)} characters")
        return env

    def _train(self, job: Running) -> None:
        """Commit the update of a training."""
        given = job_config(job.env, SiteJobConfig)
        number = int(given.site.split(".", 1)[0].rpartition("-")[2])
        path = self._folder / f"update-{number % VARIANTS}.safetensors"
        publish_update(
            MinioStore.from_settings(StoreSettings.from_env(job.env), RetryPolicy(TRIES, 0.2, 2.0)),
            path,
            round_uid=given.round_uid,
            site=given.site,
            attempt=given.attempt,
            parent_digest=given.parent.digest,
            architecture=given.architecture,
            image_size=given.image_size,
            samples=samples(number),
            metrics={"loss_before": 1.5, "loss_after": 0.5},
            seed=given.training.seed,
            software={},
            created=datetime.now(UTC),
            seal=self._signer.sign_update,
        )
        self._end(job)

    def _serve(self, job: Running) -> None:
        """Run the real Job of the server, in a work folder of its own."""
        work = self._folder / "work" / job.body["metadata"]["name"]
        work.mkdir(parents=True)
        config = {**json.loads(contract.config_text(job.env)), "workPath": str(work)}
        env = {**job.env, **contract.config_variables(json.dumps(config)), "OMP_NUM_THREADS": "1"}
        main = aggregate.main if job.role == "aggregate" else pretrain.main
        try:
            main(env, Clock())
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._end(job)

    def _end(self, job: Running) -> None:
        kind = "Failed" if job.problem else "Complete"
        before = "FailureTarget" if job.problem else "SuccessCriteriaMet"
        now = _now()
        reason = {"reason": "BackoffLimitExceeded", "message": job.problem[:1000]} if job.problem else {}
        conditions = [
            {"type": type_, "status": "True", "lastTransitionTime": now, "lastProbeTime": now, **reason}
            for type_ in (before, kind)
        ]
        counts = {"failed": 1} if job.problem else {"succeeded": 1, "completionTime": now}
        ended = {"conditions": conditions, "active": 0, "ready": 0, "uncountedTerminatedPods": {}, **counts}
        self._api.status(job.body, ended)
        line = {
            "round": job.body["metadata"]["labels"][contract.LABEL_ROUND_UID],
            "role": job.role,
            "seen": job.seen,
            "ended": time.time(),
            "problem": job.problem,
        }
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def _progress() -> Progress:
    return Progress(
        epoch=0, epochs=1, step=1, steps=2, loss=1.0, images_per_second=10.0, eta_seconds=1.0, time=datetime.now(UTC)
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-seconds", type=float, required=True)
    parser.add_argument("--train-seconds", type=float, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    torch.set_num_threads(1)
    for number in range(VARIANTS):
        write_safetensors(variant(number), given.folder / f"update-{number}.safetensors")
    api = Api(Client(given.kubeconfig))
    with given.out.open("a") as out:  # the file says that the kubelet is there
        kubelet = Kubelet(api, Times(given.start_seconds, given.train_seconds), given.folder, out)
        threading.Thread(target=kubelet.run, daemon=True).start()
        for job in api.jobs():
            kubelet.take(job)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
