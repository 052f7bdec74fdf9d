"""A real Kueue for the tests: its own Helm chart, from its Go module, with an image built from the same source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hack.cluster import gotools
from hack.cluster.progress import Progress
from hack.cluster.settings import Paths
from hack.testenv.api import ApiError, Object
from hack.testenv.platform import PREFIX, TEST_LABEL, Platform, load_images
from hack.testenv.waiting import wait_until

NAMESPACE = "kueue-system"
RELEASE = "kueue"
QUEUE = "umim"
"""Name of every LocalQueue of the tests."""
FLAVOR = f"{PREFIX}-flavor"
API = "kueue.x-k8s.io/v1beta2"

CONFIG = """\
apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
health: {healthProbeBindAddress: ":8081"}
metrics: {bindAddress: ":8443"}
webhook: {port: 9443}
leaderElection: {leaderElect: false}
integrations: {frameworks: [batch/job]}
"""
VALUES = {
    "controllerManager": {
        "manager": {
            "image": {"repository": "localhost/umim/kueue", "tag": "dev", "pullPolicy": "IfNotPresent"},
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        },
        "readinessProbe": {"initialDelaySeconds": 2},
    },
    "managerConfig": {"controllerManagerConfigYaml": CONFIG},
}
"""Values of Kueue's chart: our image, and nothing but Jobs."""


@contextmanager
def kueue(platform: Platform) -> Iterator[None]:
    """Run Kueue while the block runs. Afterwards nothing of it is left: while it is there, it looks at every Job."""
    load_images("kueue")
    chart = gotools.source("kueue", Paths.from_env(os.environ).cache, Progress()) / "charts/kueue"
    platform.namespace(NAMESPACE)
    try:
        platform.helm.install(RELEASE, str(chart), NAMESPACE, VALUES, wait=True)
        _wait_served(platform)
        yield
        # Kueue itself takes its finalizers off: with it gone, its resources could not be deleted.
        for kind in ("Workload", "LocalQueue", "ClusterQueue", "ResourceFlavor"):
            _remove_all(platform, kind)
    finally:
        platform.helm.uninstall(RELEASE, NAMESPACE)
        platform.api.delete("Namespace", "", NAMESPACE)


def _wait_served(platform: Platform) -> None:
    """Wait until the webhooks answer: the Pod is ready a little before its Service leads to it."""
    flavor: Object = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": FLAVOR, "labels": TEST_LABEL}}
    refusals: list[str] = []

    def accepted() -> bool:
        try:
            platform.api.apply(flavor)
        except ApiError as error:
            refusals.append(str(error))
            return False
        return True

    wait_until("Kueue's webhooks answer", accepted, 90, lambda: refusals[-1])


def _remove_all(platform: Platform, kind: str) -> None:
    for item in platform.api.select(kind):
        platform.api.delete(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"])
    wait_until(
        f"every {kind} deleted", lambda: not platform.api.select(kind), 60, lambda: str(platform.api.select(kind))
    )


def cluster_queue(platform: Platform, name: str, quota: dict[str, str]) -> None:
    """Make a ClusterQueue with so much of each resource."""
    resources = [{"name": resource, "nominalQuota": amount} for resource, amount in quota.items()]
    group = {"coveredResources": list(quota), "flavors": [{"name": FLAVOR, "resources": resources}]}
    body: Object = {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": {"name": name, "labels": TEST_LABEL},
        "spec": {"namespaceSelector": {}, "resourceGroups": [group]},
    }
    platform.api.apply(body)


def local_queue(platform: Platform, namespace: str, cluster_queue_name: str) -> None:
    """Make the LocalQueue of a namespace."""
    body: Object = {
        "apiVersion": API,
        "kind": "LocalQueue",
        "metadata": {"name": QUEUE, "namespace": namespace, "labels": TEST_LABEL},
        "spec": {"clusterQueue": cluster_queue_name},
    }
    platform.api.apply(body)
