"""GPU requests are scheduled and counted; what cannot be scheduled or created says so on the site."""

from __future__ import annotations

from hack.testenv.api import Object
from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import SMALL
from tests.e2e.conftest import Launch


def _gpus(count: int) -> dict[str, dict[str, str]]:
    limits = {**SMALL["limits"], "nvidia.com/gpu": str(count)}
    return {"requests": SMALL["requests"], "limits": limits}


def test_a_site_gets_its_gpu_and_the_quota_counts_it(
    platform: Platform, launch: Launch, sites: tuple[Site, Site, Site]
) -> None:
    round_ = launch("gpu", sites[0], resources=_gpus(1), training={"epochs": 100})
    used = round_.wait("the GPU counted", lambda _: _used(platform, sites[0]) == "1" or None)
    assert used
    (pod,) = round_.pods(sites[0].namespace)
    assert pod["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] == "1"
    round_.wait_phase("Complete")
    assert _used(platform, sites[0]) == "0"


def test_a_gpu_request_that_no_node_can_meet_shows_on_the_site_within_30_s(
    hospitals: Hospitals, launch: Launch
) -> None:
    large = hospitals.add(f"{PREFIX}-large", quota={"requests.nvidia.com/gpu": "64"})
    round_ = launch("gpu-64", large, resources=_gpus(64))
    seen = round_.wait(
        "unschedulable",
        lambda status: [item for item in status.get("sites", []) if item.get("reason") == "Unschedulable"],
        30,
    )
    assert "nvidia.com/gpu" in seen[0]["message"]
    assert seen[0]["phase"] == "Running"
    round_.delete()


def test_a_hospital_that_takes_the_role_away_shows_it_and_recovers(
    platform: Platform, hospitals: Hospitals, launch: Launch
) -> None:
    site = hospitals.add(f"{PREFIX}-roleless")
    role = platform.run_kubectl("get", "rolebinding", "-n", site.namespace, "-o", "name").split()[0]
    platform.run_kubectl("delete", role, "-n", site.namespace)
    round_ = launch("roleless", site)
    seen = round_.wait(
        "the refusal",
        lambda status: [item for item in status.get("sites", []) if item.get("reason") == "LaunchRefused"],
    )
    assert "forbidden" in seen[0]["message"]
    assert (seen[0]["attempt"], seen[0]["failures"]) == (0, 0)
    hospitals.join(site)
    round_.wait_phase("Complete")


def _with_reason(status: Object, reason: str) -> list[Object]:
    return [item for item in status.get("sites", []) if item.get("reason") == reason]


def _used(platform: Platform, site: Site) -> str:
    (quota,) = platform.api.select("ResourceQuota", site.namespace)
    return str(quota.get("status", {}).get("used", {}).get("requests.nvidia.com/gpu", "0"))
