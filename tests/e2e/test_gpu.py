"""Launches that Kubernetes limits: GPUs are counted, what does not fit is shown, missing rights are shown."""

from __future__ import annotations

from typing import Any

from hack.testenv.hospitals import Hospitals, Site
from hack.testenv.platform import PREFIX, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.e2e.conftest import Launch

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
ROLE = "umim-operator"


def _with_gpus(count: int) -> Object:
    return {
        "requests": {"cpu": "50m", "memory": "256Mi", GPU: str(count)},
        "limits": {"memory": "2Gi", GPU: str(count)},
    }


def _scheduled(made: Round, site: Site) -> Object | None:
    pods = [pod for pod in made.pods(site.namespace) if pod["spec"].get("nodeName")]
    return pods[0] if pods else None


def _quota(platform: Platform, site: Site) -> str:
    (quota,) = platform.api.select("ResourceQuota", site.namespace)
    used: str = quota["status"]["used"][f"requests.{GPU}"]
    return used


def test_gpus_are_counted_by_quota_and_node(
    platform: Platform, launch: Launch, hospitals: Hospitals, sites: tuple[Site, Site, Site]
) -> None:
    (node,) = platform.api.select("Node")
    every = int(node["status"]["allocatable"][GPU])
    holder, other = hospitals.add(f"{PREFIX}-gpu"), sites[0]
    holding = launch("all-gpus", holder, resources=_with_gpus(every), training={"epochs": 10_000})
    pod = wait_until("the Pod is scheduled", lambda: _scheduled(holding, holder), 120, holding.dump)
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"][GPU] == str(every)
    wait_until("quota", lambda: _quota(platform, holder) == str(every), 30, lambda: _quota(platform, holder))
    waiting = launch("one-gpu", other, resources=_with_gpus(1))
    waiting.wait("Unschedulable for GPUs", _without_gpus, 30)
    holding.delete()
    (done,) = waiting.wait_phase("Complete")["sites"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 1, 0)


def test_more_gpus_than_the_node_has_are_shown_within_30_seconds(launch: Launch, hospitals: Hospitals) -> None:
    site = hospitals.add(f"{PREFIX}-large", quota={f"requests.{GPU}": "100"})
    made = launch("too-many-gpus", site, resources=_with_gpus(64))
    shown = made.wait("Unschedulable for GPUs", _without_gpus, 30)
    assert shown["phase"] == "Running"
    made.delete()


def test_a_missing_role_is_shown_at_the_site_and_costs_no_retry(
    platform: Platform, launch: Launch, hospitals: Hospitals
) -> None:
    site = hospitals.add(f"{PREFIX}-norole")
    platform.run_kubectl("delete", "role", ROLE, "-n", site.namespace)
    made = launch("norole", site, retries=0)
    shown = made.wait("LaunchRefused", lambda status: _with_reason(status, "LaunchRefused"))
    assert (shown["phase"], shown["attempt"], shown["failures"]) == ("Backoff", 0, 0)
    assert "forbidden" in shown["message"]
    hospitals.join(site)
    (done,) = made.wait_phase("Complete")["sites"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 1, 0)


def _without_gpus(status: Object) -> Object | None:
    """Return the site that cannot be scheduled for want of GPUs; before its volumes are bound it has another reason."""
    found = _with_reason(status, "Unschedulable")
    return found if found is not None and GPU in found["message"] else None


def _with_reason(status: Object, reason: str) -> Object | None:
    found = [item for item in status.get("sites", []) if item.get("reason") == reason]
    return found[0] if found else None
