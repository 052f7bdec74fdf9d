"""What the embedded cluster is: names, addresses, versions and folders.

One cluster per host. Everything that it leaves on the host carries one of the names below, so that
`audit` finds it and `down` removes it and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "v1.34.4"
HELM_VERSION = "v3.19.5"

NODE_NAME = "umim-node"
NODE_IP = "10.200.0.1"
"""The node's InternalIP. It lives on a bridge of its own (not every kernel has dummy links), and every
component listens on it, so no port of the host's other addresses is taken."""
POD_CIDR = "10.244.0.0/16"
POD_GATEWAY = "10.244.0.1"
SERVICE_CIDR = "10.96.0.0/16"
DNS_IP = "10.96.0.10"
API_PORT = 6443
API_URL = f"https://{NODE_IP}:{API_PORT}"

GPU_RESOURCE = "nvidia.com/gpu"
GPU_COUNT = 4
PAUSE_IMAGE = "umim.local/pause:1"
CONTAINERD_NAMESPACE = "k8s.io"

NODE_BRIDGE = "umim-node"
POD_BRIDGE = "umim-pods"
CGROUP = "umim-cluster"
"""Name of the cgroup (in every hierarchy) below which the kubelet puts all pods."""
RULE_COMMENT = "umim-cluster"
"""iptables comment on the rules that `up` adds itself."""
MARKER = "UMIM_EMBEDDED_CLUSTER"
"""Environment variable of every process of the cluster; its value is the component's name. Children
(containerd's shims) inherit it. It identifies a process better than a pid file: no pid is ever reused
with it, and there is no moment between the start and the note about it."""


@dataclass(frozen=True)
class Paths:
    """Folders of the cluster.

    state: what survives `down` (etcd, certificates, images, logs). run: what does not.
    cache: built binaries and locks, outside the checkout.
    """

    state: Path
    run: Path
    cache: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Paths":
        """Folders by UMIM_CLUSTER_DIR and UMIM_CACHE, or their defaults.

        Raises ValueError when one of them is not an absolute path.
        """
        found = {
            "UMIM_CLUSTER_DIR": Path(env.get("UMIM_CLUSTER_DIR") or "/var/lib/umim-cluster"),
            "UMIM_CACHE": Path(env.get("UMIM_CACHE") or Path(env.get("HOME") or "/root") / ".cache/umim"),
        }
        for name, path in found.items():
            if not path.is_absolute() or path == Path("/"):
                raise ValueError(f"{name}={path}: must be an absolute path of a folder, such as /var/lib/x")
        return cls(state=found["UMIM_CLUSTER_DIR"], run=Path("/run/umim-cluster"), cache=found["UMIM_CACHE"])

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.state / "logs"

    @property
    def pod_logs(self) -> Path:
        """Container logs, as the kubelet writes them."""
        return self.state / "pod-logs"

    @property
    def pki(self) -> Path:
        """Certificates and keys, written by kubeadm."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components, written anew by every `up`."""
        return self.state / "config"

    @property
    def kubeconfigs(self) -> Path:
        """Kubeconfigs of the components, written by kubeadm."""
        return self.state / "kubeconfigs"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        """Socket of the cluster's own containerd."""
        return self.run / "containerd.sock"

    @property
    def ready(self) -> Path:
        """Exists while the cluster that runs was brought up completely."""
        return self.run / "ready"
