"""Aggregator Jobs of the tests that no round made: committed updates as large as wanted, the operator's own Pods."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from minio.commonconfig import CopySource

from hack.testenv.api import Object
from hack.testenv.platform import BUCKET, FEDERATION, OPERATOR, SYSTEM, Platform, describe_pod
from hack.testenv.waiting import wait_until
from umim import contract
from umim.api.artifacts import JobResult, UpdateManifest
from umim.api.base import ModelReference
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.api.round import AggregationSpec, FederationRoundSpec, FederationRoundStatus
from umim.artifacts.manifests import manifest_bytes, read_job_result
from umim.artifacts.minio import http_pool, s3_client
from umim.artifacts.models import publish_model, publish_update
from umim_operator import builders
from umim_operator.config import (
    ENV_AGGREGATOR_IMAGE,
    ENV_PULL_POLICY,
    ENV_SERVER_SERVICE_ACCOUNT,
    ENV_TRAINER_IMAGE,
    JobDefaults,
)
from umim_operator.credentials import Mint
from umim_operator.state import JobReference, Launch, RoundView

NAME = "aggregation"
ROLE: contract.Role = "aggregate"
IMAGE_SIZE = 224
LIFETIME = timedelta(minutes=30)
CPU = {"requests": "100m", "limits": "2"}
"""Two threads; two Jobs fit beside whatever else the node runs."""


@dataclass(frozen=True)
class Aggregation:
    """Committed updates of one round that exists in the store only, and the Jobs that merge them."""

    platform: Platform
    config: AggregateJobConfig
    """Of attempt 1."""

    @property
    def uid(self) -> str:
        """UID of the round."""
        return self.config.round_uid

    def launch(self, attempt: int, memory: str) -> str:
        """Start the Job of an attempt as the operator does, and return its name. ``memory`` limits its Pod."""
        config = self.config.model_copy(update={"attempt": attempt})
        reference = JobReference(FEDERATION, contract.job_name(ROLE, NAME, self.uid, "", attempt))
        launch = Launch(reference, ROLE, "", attempt, config, None, LIFETIME)
        minted = Mint(self.platform.store_settings(), None).issue(config, datetime.now(UTC) + LIFETIME, LIFETIME)
        view = self._view(memory)
        self.platform.api.create(builders.secret(view, launch, minted))
        self.platform.api.create(builders.job(view, launch, job_defaults(self.platform), None))
        return reference.name

    def result(self) -> JobResult | None:
        """Return the committed result."""
        return read_job_result(self.platform.store(), self.uid, ROLE)

    def pods(self, job: str) -> list[Object]:
        """Return the Pods of a Job."""
        return self.platform.api.select("Pod", FEDERATION, {"job-name": job})

    def wait_log(self, job: str, text: str, seconds: float) -> Object:
        """Wait until the running Pod of a Job has logged a text, and return the Pod."""

        def look() -> Object | None:
            pods = [pod for pod in self.pods(job) if text in self._log(pod)]
            return pods[0] if pods else None

        return wait_until(f"{job} logs {text!r}", look, seconds, lambda: self.dump(job))

    def exit_code(self, job: str) -> int | None:
        """Return how the Pod of a Job ended, None before it has. Fails when it was killed for its memory."""
        for pod in self.pods(job):
            for status in pod.get("status", {}).get("containerStatuses", []):
                if ended := status["state"].get("terminated"):
                    assert ended.get("reason") != "OOMKilled", self.dump(job)
                    return int(ended["exitCode"])
        return None

    def dump(self, job: str) -> str:
        """Return all that explains where a Job stands."""
        return "\n".join(describe_pod(self.platform.api, pod) for pod in self.pods(job)) or f"{job} has no Pod"

    def forget(self) -> None:
        """Remove what the Jobs have made: the result and the model. The updates stay."""
        store, result = self.platform.store(), self.result()
        if result is not None and result.model_digest not in (None, self.config.parent.digest):
            store.delete_prefix(contract.model_prefix(str(result.model_digest)))
        store.delete_prefix(f"{contract.round_prefix(self.uid)}{ROLE}/")

    def remove(self) -> None:
        """Remove the Jobs, the Secrets and everything in the store."""
        for kind in ("Job", "Secret"):
            for item in self.platform.api.select(kind, FEDERATION, {contract.LABEL_ROUND_UID: self.uid}):
                self.platform.api.delete(kind, FEDERATION, item["metadata"]["name"])
        self.forget()
        for prefix in (contract.round_prefix(self.uid), contract.model_prefix(self.config.parent.digest)):
            self.platform.store().delete_prefix(prefix)

    def _log(self, pod: Object) -> str:
        return self.platform.api.log(FEDERATION, pod["metadata"]["name"])

    def _view(self, memory: str) -> RoundView:
        resources = {
            "requests": {"cpu": CPU["requests"], "memory": memory},
            "limits": {"cpu": CPU["limits"], "memory": memory},
        }
        spec = FederationRoundSpec.model_validate(
            {
                "model": {"architecture": self.config.architecture, "parent": {"globalModel": NAME}},
                "participants": {"hospitals": [{"namespace": "any", "name": "any"}], "quorum": 1},
                "aggregation": {"resources": resources},
            }
        )
        return RoundView(FEDERATION, NAME, self.uid, 1, FederationRoundStatus(), spec)


def job_defaults(platform: Platform) -> JobDefaults:
    """Return what the running operator gives every Job: its images, where the store is, without live progress."""
    (container,) = platform.api.get("Deployment", SYSTEM, OPERATOR)["spec"]["template"]["spec"]["containers"]
    env = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    store = (contract.ENV_S3_ENDPOINT, contract.ENV_S3_BUCKET, contract.ENV_S3_REGION, contract.ENV_S3_CA)
    return JobDefaults(
        trainer_image=env[ENV_TRAINER_IMAGE],
        aggregator_image=env[ENV_AGGREGATOR_IMAGE],
        pull_policy=env[ENV_PULL_POLICY],
        server_service_account=env.get(ENV_SERVER_SERVICE_ACCOUNT, "umim-server"),
        environment={name: env[name] for name in store if name in env},
    )


@contextmanager
def committed(
    platform: Platform, parent: Path, updates: Sequence[Path], count: int, architecture: str, spec: AggregationSpec
) -> Iterator[Aggregation]:
    """Publish a parent and ``count`` sites' updates while the block runs; all of it is removed at its end.

    The sites take turns with the files in ``updates``: site n commits file n modulo their number, with 100 + n samples.
    Each file is sent once and copied by the store itself.
    """
    store, uid = platform.store(), f"{NAME}-{uuid.uuid4().hex}"
    digest = publish_model(store, parent, **_described(architecture), strategy="init-random", round_uid=uid)
    config = AggregateJobConfig(
        round_namespace=FEDERATION,
        round_name=NAME,
        round_uid=uid,
        attempt=1,
        architecture=architecture,
        image_size=IMAGE_SIZE,
        parent=ModelReference(name=NAME, digest=digest),
        aggregation=spec,
        updates=[UpdateReference(site=_site(number), attempt=1, digest=digest) for number in range(count)],
        quorum=count,
        seed=0,
        work_path=contract.WORK_MOUNT,
    )
    try:
        references = list(_commit(platform, config, updates))
        yield Aggregation(platform, config.model_copy(update={"updates": references}))
    finally:
        Aggregation(platform, config).remove()


def _described(architecture: str) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "image_size": IMAGE_SIZE,
        "seed": 0,
        "software": {},
        "created": datetime.now(UTC),
    }


def _site(number: int) -> str:
    return f"hospital-{number:02}.{NAME}"


def _commit(platform: Platform, config: AggregateJobConfig, paths: Sequence[Path]) -> Iterator[UpdateReference]:
    """Commit each site's update, in the order of the sites."""
    store, uid = platform.store(), config.round_uid
    settings = platform.store_settings()
    client = s3_client(settings, settings.credentials, http_pool(settings))
    sent: list[UpdateManifest] = []
    for number, reference in enumerate(config.updates):
        site = reference.site
        if number < len(paths):
            sent.append(
                publish_update(
                    store,
                    paths[number],
                    **_described(config.architecture),
                    round_uid=uid,
                    site=site,
                    attempt=1,
                    parent_digest=config.parent.digest,
                    samples=samples_of(number),
                    metrics={},
                    encoding=config.aggregation.encoding.format,
                )
            )
        else:
            like, key = sent[number % len(paths)], contract.update_key(uid, site, 1)
            client.copy_object(BUCKET, key, CopySource(BUCKET, like.file.key))
            file = like.file.model_copy(update={"key": key})
            manifest = like.model_copy(update={"site": site, "samples": samples_of(number), "file": file})
            store.put(contract.update_manifest_key(uid, site, 1), manifest_bytes(manifest), if_absent=True)
        yield reference.model_copy(update={"digest": sent[number % len(paths)].file.digest})


def samples_of(number: int) -> int:
    """Return how many samples the site of a number says it has."""
    return 100 + number


def peak_memory(pod: Object) -> int | None:
    """Return the largest resident set so far, in bytes, of a process in a Pod. None: the Pod runs none here.

    The Pods of the embedded cluster are processes of this host, which their control groups name. The control group's
    own peak would count the page cache, which fills every limit.
    """
    found = [_peak(process) for process in Path("/proc").glob("[0-9]*") if _belongs(process, pod["metadata"]["uid"])]
    return max((peak for peak in found if peak is not None), default=None)


def _belongs(process: Path, uid: str) -> bool:
    try:
        return uid in (process / "cgroup").read_text()
    except OSError:  # it has ended
        return False


def _peak(process: Path) -> int | None:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
    return found[0] if found else None
