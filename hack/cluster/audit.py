"""What of the cluster is on this host, and its removal."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hack.cluster import host, probe, proc
from hack.cluster.progress import ClusterError
from hack.cluster.settings import POD_BRIDGE, Paths

POD_GRACE_S = 2.0
DAEMON_GRACE_S = 5.0
CONTAINER_LOG_LINKS = Path("/var/log/containers")
"""Where the kubelet puts links to container logs, whatever its configuration says."""
CNI_RESULTS = Path("/var/lib/cni/results")
"""Where the CNI library keeps what a plugin answered; fixed as well."""
KUBELET_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
"""The kubelet's socket for device plugins; fixed as well."""


@dataclass(frozen=True)
class Audit:
    """What the cluster has on the host. Network namespaces count as mounts: they are kept as such."""

    processes: tuple[str, ...]
    mounts: tuple[str, ...]
    links: tuple[str, ...]
    cgroups: tuple[str, ...]
    rules: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing is there."""
        return not any(asdict(self).values())

    def text(self) -> str:
        """Everything found, one line each."""
        return "\n".join(f"  {kind}: {item}" for kind, items in asdict(self).items() for item in items)


def audit(paths: Paths) -> Audit:
    """List what is there. Changes nothing."""
    return Audit(
        processes=tuple(f"{p.pid} {p.component or 'pod'} {p.command[:100]}" for p in proc.processes()),
        mounts=tuple(host.mounts([paths.state, paths.run])),
        links=tuple(host.links()),
        cgroups=tuple(map(str, host.cgroups())),
        rules=tuple(host.rules()),
        files=tuple(map(str, [*_log_links(paths), *_cni_results(), *_runtime_files(paths)])),
    )


def _log_links(paths: Paths) -> list[Path]:
    if not CONTAINER_LOG_LINKS.is_dir():
        return []
    found = (path for path in CONTAINER_LOG_LINKS.iterdir() if path.is_symlink())
    return sorted(path for path in found if path.readlink().is_relative_to(paths.pod_logs))


def _cni_results() -> list[Path]:
    """Kept answers about the cluster's pods: those of its network, and the loopback's for the same pods."""
    own = sorted(CNI_RESULTS.glob(f"{POD_BRIDGE}-*-eth0"))
    pods = [path.name.removeprefix(f"{POD_BRIDGE}-").removesuffix("-eth0") for path in own]
    loopback = [CNI_RESULTS / f"cni-loopback-{pod}-lo" for pod in pods]
    return own + [path for path in loopback if path.exists()]


def _runtime_files(paths: Paths) -> list[Path]:
    return [paths.run] if paths.run.exists() else []


def _shim_sockets(paths: Paths) -> list[Path]:
    """Sockets of containerd's shims; their folder is fixed, their addresses are noted in the bundles."""
    notes = (paths.run / "containerd/io.containerd.runtime.v2.task").glob("*/*/address")
    return [Path(note.read_text().strip().removeprefix("unix://")) for note in notes]


def clean(paths: Paths) -> None:
    """Stop and remove everything; whatever state it is in, running, half started or killed.

    Raises ClusterError when something is left, naming it. Data below the state folder stays.
    """
    # First who would start new ones, then the pods, then the rest, the store last.
    proc.stop(_of("kubelet"), DAEMON_GRACE_S)
    proc.stop(_pods, POD_GRACE_S)
    sockets = _shim_sockets(paths)
    proc.stop(lambda: [p for p in proc.processes() if p.component == "containerd" and not p.leads], 0)
    proc.stop(lambda: [p for p in proc.processes() if p.component != "etcd"], DAEMON_GRACE_S)
    proc.stop(proc.processes, DAEMON_GRACE_S)
    host.unmount([paths.state, paths.run])
    host.remove_links()
    host.remove_cgroups()
    host.remove_rules()
    host.remove_tree(paths.run)
    for path in [*sockets, *_log_links(paths), *_cni_results()]:
        path.unlink(missing_ok=True)
    if not probe.socket_ok(KUBELET_SOCKET):  # a kubelet of the user's own would answer
        KUBELET_SOCKET.unlink(missing_ok=True)
    left = audit(paths)
    if not left.empty:
        raise ClusterError(f"could not remove all of the cluster; remove these by hand and retry:\n{left.text()}")


def _of(component: str) -> Callable[[], list[proc.Process]]:
    return lambda: [p for p in proc.processes() if p.component == component]


def _pods() -> list[proc.Process]:
    return [p for p in proc.processes() if not p.component]


def disk_bytes(path: Path) -> int:
    """Disk space that a folder's files take, without what is mounted in it."""
    total, device = 0, path.stat().st_dev if path.exists() else 0
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if not os.path.ismount(Path(folder) / name)]
        for name in files:
            found = os.lstat(Path(folder) / name)
            total += found.st_blocks * 512 if found.st_dev == device else 0
    return total


def free_bytes(path: Path) -> int:
    """Free disk space where a folder lies."""
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free
