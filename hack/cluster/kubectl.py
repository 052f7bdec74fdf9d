"""kubectl as the administrator, and the objects that `up` creates."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.cluster import settings as s
from hack.cluster.progress import ClusterError

NODE_LABELS = {"umim.dev/cluster": "embedded", "nvidia.com/gpu.present": "true"}


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl with one kubeconfig."""

    program: Path
    kubeconfig: Path

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Output of kubectl. Raises ClusterError with what it said when it fails."""
        done = subprocess.run(
            [self.program, "--kubeconfig", self.kubeconfig, "--request-timeout=20s", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments[:4])} failed: {done.stderr.strip()[-600:]}")
        return done.stdout

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Server-side apply."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.run("apply", "--server-side", "--force-conflicts", "--field-manager=umim-cluster", "-f", "-", stdin=text)

    def node(self) -> dict[str, Any]:
        """The node object. Raises ClusterError while it is not registered."""
        found: dict[str, Any] = json.loads(self.run("get", "node", s.NODE_NAME, "-o", "json"))
        return found

    def label_node(self) -> None:
        """Label the node, for node selectors and for people."""
        self.run("label", "node", s.NODE_NAME, "--overwrite", *(f"{k}={v}" for k, v in NODE_LABELS.items()))

    def set_gpus(self) -> None:
        """Advertise the GPUs as an extended resource in the node's status."""
        # The kubelet derives allocatable from capacity, but only every 10 s.
        count = {s.GPU_RESOURCE: str(s.GPU_COUNT)}
        patch = {"status": {"capacity": count, "allocatable": count}}
        self.run("patch", "node", s.NODE_NAME, "--subresource=status", "--type=merge", "-p", json.dumps(patch))


def ready_since_start(node: Mapping[str, Any], started: float) -> bool:
    """Whether the kubelet that started at `started` (seconds since the epoch) reports the node ready.

    A node object of an earlier run says Ready too; its heartbeat is older.
    """
    for condition in node["status"].get("conditions", []):
        if condition["type"] == "Ready":
            beat = datetime.strptime(condition["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            return condition["status"] == "True" and beat.timestamp() >= int(started)
    return False


def gpus(node: Mapping[str, Any]) -> int:
    """GPUs that the scheduler may hand out on the node."""
    return int(node["status"].get("allocatable", {}).get(s.GPU_RESOURCE, "0"))


def _binding(name: str, role: str, kind: str, subject: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": kind, "name": subject}],
    }


def access_objects() -> list[dict[str, Any]]:
    """RBAC: kubeadm's administrators, and CoreDNS."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:umim-coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }
    return [
        _binding("kubeadm:cluster-admins", "cluster-admin", "Group", "kubeadm:cluster-admins"),
        role,
        _binding("system:umim-coredns", "system:umim-coredns", "User", "system:umim-coredns"),
    ]


def dns_objects() -> list[dict[str, Any]]:
    """The DNS Service, bound to CoreDNS on the node by an EndpointSlice of our own."""
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    protocols = (("dns", "UDP"), ("dns-tcp", "TCP"))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "clusterIP": s.DNS_IP,
            "ports": [{"name": name, "port": 53, "protocol": protocol} for name, protocol in protocols],
        },
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": labels | {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": [{"name": name, "port": 53, "protocol": protocol} for name, protocol in protocols],
        "endpoints": [{"addresses": [s.NODE_IP], "conditions": {"ready": True}}],
    }
    return [service, endpoints]
