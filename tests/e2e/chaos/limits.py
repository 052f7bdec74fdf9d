"""What Kubernetes does not let run: quotas, images, GPUs. The reason must be on the site within 30 s."""

from __future__ import annotations

import os
import time

from hack.cluster.images import ctr
from hack.cluster.settings import Paths
from hack.testenv.api import Object
from hack.testenv.hospitals import Site
from hack.testenv.platform import OPERATOR, SYSTEM
from hack.testenv.waiting import wait_until
from tests.e2e.chaos.registry import case
from tests.e2e.chaos.rows import NOTHING, Row
from tests.e2e.chaos.world import SHORT, World
from umim_operator.config import ENV_TRAINER_IMAGE

PATHS = Paths.from_env(os.environ)


def _quota(world: World, name: str, fault: str, hard: dict[str, str]) -> list[Row]:
    """Let a ResourceQuota stop a site, then take it away."""
    site = world.site(name, "b")
    _limit(world, site, hard)
    trial = world.launch(name, [world.sites[0], site], training=SHORT)
    trial.round.wait("launched", lambda _: trial.round.site(site).get("reason"))
    begin = time.monotonic()
    shown, took = world.shown(trial, site, begin, lambda item: "quota" in item["message"].lower())
    world.platform.api.delete("ResourceQuota", site.namespace, "umim-chaos")
    held = time.monotonic() - begin
    return [
        world.complete(
            trial,
            case=name,
            fault=fault,
            phase="Training",
            outcome=f"{shown['reason']} was shown at the site after {took:.0f} s; went on when the quota was freed",
            fault_seconds=held,
            twin=world.twin("short", training=SHORT),
            reasons=[shown["reason"]],
        )
    ]


def _limit(world: World, site: Site, hard: dict[str, str]) -> None:
    meta = {"name": "umim-chaos", "namespace": site.namespace}
    world.platform.api.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})

    def counted() -> bool:
        return bool(world.platform.api.get("ResourceQuota", site.namespace, "umim-chaos").get("status", {}).get("hard"))

    wait_until("the quota counts", counted, 30, lambda: "")


@case("quota-jobs")
def quota_jobs(world: World) -> list[Row]:
    """The quota allows no Job."""
    return _quota(world, "quota-jobs", "quota exhausted (Jobs), then freed", {"count/jobs.batch": "0"})


@case("quota-pods")
def quota_pods(world: World) -> list[Row]:
    """The quota allows a Job, but no Pod for it."""
    return _quota(world, "quota-pods", "quota exhausted (Pods, not Jobs), then freed", {"pods": "0"})


@case("gpu")
def gpu(world: World) -> list[Row]:
    """The round asks for more GPUs than any node has."""
    site = world.site("gpu", "b", quota={"requests.nvidia.com/gpu": "100"})
    asked = {"cpu": "50m", "memory": "256Mi", "nvidia.com/gpu": "64"}
    begin = time.monotonic()
    trial = world.launch("gpu", [site], resources={"requests": asked, "limits": {"nvidia.com/gpu": "64"}})
    trial.round.wait_phase("Training")
    begin = time.monotonic()
    shown, took = world.shown(trial, site, begin, lambda item: "nvidia.com/gpu" in item["message"])
    trial.round.delete()
    outcome = f"{shown['reason']} was shown at the site; the round waits for its deadline, and was deleted here"
    return [Row("gpu", "unschedulable GPU request", "Training", outcome, round(took, 1), NOTHING, (shown["reason"],))]


@case("image", alone=True)
def image(world: World) -> list[Row]:
    """The image of the Jobs cannot be pulled, and is there later."""
    api = world.platform.api
    (container,) = api.get("Deployment", SYSTEM, OPERATOR)["spec"]["template"]["spec"]["containers"]
    real = next(item["value"] for item in container["env"] if item["name"] == ENV_TRAINER_IMAGE)
    absent = f"localhost/umim/absent:{int(time.time())}"
    twin = world.twin("short", training=SHORT)
    _set_trainer(world, absent)
    try:
        trial = world.launch("image", training=SHORT)
        site = trial.sites[0]
        trial.round.wait("launched", lambda _: trial.round.site(site).get("job"))
        begin = time.monotonic()
        shown, took = world.shown(trial, site, begin, _image_missing)
        ctr(PATHS, "images", "tag", real, absent)
        held = time.monotonic() - begin
        return [
            world.complete(
                trial,
                case="image",
                fault="image cannot be pulled, then it can",
                phase="Training",
                outcome=f"{shown['reason']} was shown at the site after {took:.0f} s; went on when the image was there",
                fault_seconds=held,
                twin=twin,
                reasons=[shown["reason"]],
            )
        ]
    finally:
        _set_trainer(world, real)
        ctr(PATHS, "images", "rm", absent)


def _image_missing(item: Object) -> bool:
    return item["reason"] in ("ErrImagePull", "ImagePullBackOff")


def _set_trainer(world: World, image_: str) -> None:
    world.platform.run_kubectl("set", "env", f"deployment/{OPERATOR}", "-n", SYSTEM, f"{ENV_TRAINER_IMAGE}={image_}")
    world.wait_operator()
