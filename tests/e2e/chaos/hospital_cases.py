"""Hospitals that never answer, answer too late, or answer twice."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from hack.testenv.api import Object
from hack.testenv.hospitals import Site
from hack.testenv.rounds import ARCHITECTURE
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import Row
from tests.e2e.chaos.world import Trial, World
from umim import contract
from umim.artifacts.minio import MinioStore
from umim.artifacts.models import publish_update
from umim.artifacts.store import ObjectStore
from umim.errors import AccessDeniedError
from umim.settings import S3Credentials

LATE_SECONDS = 150
"""Longer than a training takes on a busy machine."""


@case("silent")
def silent(world: World) -> list[Row]:
    """One of two hospitals never answers, and the round wants both."""
    gated = world.site("silent", "b", gate=True)
    begin = time.monotonic()
    trial = world.launch("silent", [world.sites[0], gated], quorum=2, deadline="60s", training={"epochs": 1})
    names = (gated.name, "deadline of 60s")
    return [
        world.failed(
            trial,
            case="silent",
            fault="hospital never answers, quorum needs it",
            phase="Training",
            reason="QuorumNotReached",
            names=names,
            begin=begin,
        )
    ]


@case("late")
def late(world: World) -> list[Row]:
    """A hospital answers after the deadline, with what is left of its credentials; the quorum does not need it."""
    gated = world.site("late", "b", gate=True)
    sites = [world.sites[0], gated]
    trial = world.launch("late", sites, quorum=1, deadline=f"{LATE_SECONDS}s", training={"epochs": 1})
    trial.round.wait_site(gated, "Running")
    store = _store(world, trial, gated)
    trial.round.wait_site(world.sites[0], "Succeeded")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        admin = world.platform.store()
        admin.download(contract.update_key(trial.round.uid, world.sites[0].name, 1), path)
        samples = trial.round.site(world.sites[0])["samples"]
        trial.round.wait_site(gated, "Late")
        told = "refused by the store" if not _answer(store, trial, gated, path, samples) else "left out"
    row = world.complete(
        trial,
        case="late",
        fault="hospital answers after the deadline, quorum does not need it",
        phase="Training",
        outcome=f"the late update was {told}, the model is made of the others",
        contributors=[world.sites[0]],
        undisturbed_seconds=world.twin("short", training={"epochs": 1}).seconds + LATE_SECONDS,
    )
    assert trial.round.contributors() == [world.sites[0].name]
    return [row]


@case("twice")
def twice(world: World) -> list[Row]:
    """A hospital's Pod runs twice at once, as after a lost node: two answers for one attempt."""
    trial = world.launch("twice")
    site = trial.sites[0]
    job = trial.round.wait_site(site, "Running")["job"]
    (body,) = [item for item in trial.round.jobs(site.namespace) if item["metadata"]["name"] == job]
    world.platform.api.create(_copy(body))
    row = world.complete(
        trial,
        case="twice",
        fault="hospital answers twice: its Pod runs twice at once",
        phase="Training",
        outcome="one update was committed and counted once",
    )
    world.platform.api.delete("Job", site.namespace, f"{job}-x")
    assert len(trial.round.contributors()) == 2
    return [row]


def _copy(job: Object) -> Object:
    """Return a second Job with the same Pod, which no operator knows."""
    pod = job["spec"]["template"]["spec"]
    meta = {"name": f"{job['metadata']['name']}-x", "namespace": job["metadata"]["namespace"]}
    spec = {"backoffLimit": 0, "template": {"metadata": {"labels": {"umim.dev/test": "twice"}}, "spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def _store(world: World, trial: Trial, site: Site) -> MinioStore:
    """Return the store as a site's Job may use it."""
    names = [
        item["metadata"]["name"] for item in trial.round.secrets() if item["metadata"]["namespace"] == site.namespace
    ]
    values = world.platform.secret(site.namespace, names[0])
    return world.platform.store(
        S3Credentials(
            access_key=values[contract.ENV_S3_ACCESS_KEY],
            secret_key=SecretStr(values[contract.ENV_S3_SECRET_KEY]),
            session_token=SecretStr(values[contract.ENV_S3_SESSION_TOKEN]),
        )
    )


def _answer(store: ObjectStore, trial: Trial, site: Site, path: Path, samples: int) -> bool:
    """Commit an update as a site's Job would. Returns whether the store took it."""
    try:
        publish_update(
            store,
            path,
            round_uid=trial.round.uid,
            site=site.name,
            attempt=1,
            parent_digest=trial.round.status["parent"]["digest"],
            architecture=ARCHITECTURE,
            image_size=32,
            samples=samples,
            metrics={},
            seed=1,
            software={},
            created=datetime.now(UTC),
        )
    except AccessDeniedError:
        return False
    return True
