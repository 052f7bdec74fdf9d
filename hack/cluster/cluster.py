"""`up` and `down`."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hack.cluster import audit, components, debian, gotools, host, images, kubectl, pause, pki, probe, proc
from hack.cluster import settings as s
from hack.cluster.progress import ClusterError, Progress
from hack.cluster.settings import Paths

READY_S = 90.0
"""Longest a component may take until it is healthy; seconds are usual."""
BUSY_S = 20.0
"""How long a component that runs may be too busy to answer before `up` starts the cluster anew."""
LOG_LINES = 15


def up(paths: Paths, progress: Progress) -> None:
    """Bring the cluster up: build, install, clean up what a killed run left, start, wait until it works.

    Raises ClusterError, naming the log of the component that did not come up.
    """
    require_root()
    with gotools.locked(paths.cache / "cluster.lock", progress, "starts or stops the cluster"):
        if is_up(paths):
            progress.line(f"the cluster is already up; KUBECONFIG={paths.kubeconfig}")
            return
        with ThreadPoolExecutor(1) as pool:
            packages = pool.submit(debian.ensure_packages, debian.CLUSTER_PACKAGES, progress)
            tools = gotools.ensure(gotools.CLUSTER_TOOLS, paths.cache, progress)
            packages.result()
        begin = time.monotonic()
        _Start(paths, tools, progress).run()
        progress.line(
            f"the cluster is up, {time.monotonic() - begin:.1f} s from nothing running; "
            f"KUBECONFIG={paths.kubeconfig}; stop it with 'python3 -m hack.cluster down'"
        )


def down(paths: Paths, progress: Progress, purge: bool = False) -> None:
    """Stop everything and leave nothing on the host but the state folder; with `purge`, not that either."""
    require_root()
    with gotools.locked(paths.cache / "cluster.lock", progress, "starts or stops the cluster"):
        with progress.step("stopping the cluster"):
            audit.clean(paths)
        if purge:
            host.remove_tree(paths.state)
        kept = "deleted" if purge else f"kept in {paths.state}; 'down --purge' deletes it"
        progress.line(f"nothing of the cluster is left running, mounted or linked; state {kept}")


def require_root() -> None:
    """Raises ClusterError unless run by root."""
    if os.geteuid():
        raise ClusterError("the embedded cluster needs root; run it with sudo, or use CLUSTER=current")


def is_up(paths: Paths) -> bool:
    """Whether a completely started cluster runs and every component is healthy.

    A component that runs but is busy gets a while, so that a loaded machine is no reason to restart.
    """
    if not paths.ready.exists():
        return False
    try:
        parts = built_components(paths)
    except ClusterError:
        return False
    running = {p.component for p in proc.processes() if p.leads}
    if running != set(parts):
        return False
    return all(proc.wait_until(partial(healthy, part, paths), BUSY_S) for part in parts.values())


def built_components(paths: Paths) -> dict[str, components.Component]:
    """The components with the programs that are built. Raises ClusterError when one is missing."""
    tools = {tool: gotools.tool_path(tool, paths.cache) for tool in gotools.CLUSTER_TOOLS}
    missing = [tool for tool, path in tools.items() if not path.exists()]
    if missing:
        raise ClusterError(f"not built yet: {', '.join(missing)}; run 'python3 -m hack.cluster up'")
    return components.components(paths, tools)


def healthy(component: components.Component, paths: Paths) -> bool:
    """Whether the component answers its health probe."""
    return probe.http_ok(component.health) if component.health else probe.socket_ok(paths.containerd_socket)


def resolv_conf() -> tuple[str, bool]:
    """(file with the host's real name servers, whether it names any)."""
    candidates = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
    path = next((path for path in candidates if path.exists()), candidates[-1])
    text = path.read_text() if path.exists() else ""
    return str(path), any(line.split()[:1] == ["nameserver"] for line in text.splitlines())


@dataclass
class _Start:
    """One start of all components."""

    paths: Paths
    tools: dict[str, Path]
    progress: Progress
    started: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def run(self) -> None:
        self._prepare()
        parts = components.components(self.paths, self.tools)
        self._launch(parts[name] for name in ("containerd", "etcd"))
        self._launch([parts["kube-apiserver"]])
        control = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns")
        with self.progress.step("access rules and the pause image"):
            archive = pause.write(self.paths.run / "pause.tar")
            images.load(self.paths, [archive], self.progress)
            super_admin = self.paths.kubeconfigs / "super-admin.conf"
            kubectl.Kubectl(self.tools["kubectl"], super_admin).apply(kubectl.access_objects())
        self._launch(parts[name] for name in control)
        self._finish_node()
        (self.paths.state / "initialised").write_text(_identity())
        self.paths.ready.write_text("")

    def _prepare(self) -> None:
        paths = self.paths
        if not audit.audit(paths).empty:
            with self.progress.step("cleaning up what an earlier run left"):
                audit.clean(paths)
        _check_state(paths)
        _check_routes()
        for folder in (paths.state, paths.run, paths.logs, paths.config / "cni"):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self.progress.step("certificates, configuration and network"):
            pki.ensure(paths, self.tools)
            _write_config(paths)
            host.set_sysctls()
            host.make_node_bridge()
            host.make_cgroups()
            host.add_rules()

    def _launch(self, parts: Iterable[components.Component]) -> None:
        """Start components together, then wait for each. Raises ClusterError with the end of its log."""
        parts = list(parts)
        for part in parts:
            log = self.paths.logs / f"{part.name}.log"
            self.started[part.name] = proc.spawn(part.name, part.command, log)
        for part in parts:
            with self.progress.step(f"{part.name} healthy"):
                self._wait(part.name, partial(healthy, part, self.paths))

    def _wait(self, component: str, condition: Callable[[], bool]) -> None:
        process = self.started[component]
        held = proc.wait_until(lambda: condition() or process.poll() is not None, READY_S)
        if process.poll() is not None:
            raise ClusterError(f"{component} ended with status {process.poll()}; {self._log_end(component)}")
        if not held:
            raise ClusterError(f"{component} is not ready after {READY_S:.0f} s; {self._log_end(component)}")

    def _log_end(self, component: str) -> str:
        log = self.paths.logs / f"{component}.log"
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"the end of {log}:", *lines])

    def _finish_node(self) -> None:
        client = kubectl.Kubectl(self.tools["kubectl"], self.paths.kubeconfig)
        since = time.time() - proc.uptime(next(p for p in proc.processes() if p.component == "kubelet" and p.leads))

        def node_ready() -> bool:
            try:
                return kubectl.ready_since_start(client.node(), since)
            except ClusterError:
                return False  # not registered yet

        def gpus_set() -> bool:
            # A starting kubelet resets what it does not know, so this is repeated until it shows.
            client.set_gpus()
            return kubectl.gpus(client.node()) == s.GPU_COUNT

        client.apply(kubectl.dns_objects())
        with self.progress.step("node Ready"):
            self._wait("kubelet", node_ready)
        with self.progress.step(f"{s.GPU_COUNT} x {s.GPU_RESOURCE} on the node"):
            client.label_node()
            self._wait("kubelet", gpus_set)
        with self.progress.step("CoreDNS answers"):
            self._wait("coredns", lambda: probe.dns_ok(s.DNS_IP, "kubernetes.default.svc.cluster.local"))
        with self.progress.step("service accounts"):
            self._wait("kube-controller-manager", lambda: _has_account(client))


def _has_account(client: kubectl.Kubectl) -> bool:
    try:
        client.run("get", "serviceaccount", "default", "-n", "default", "-o", "name")
    except ClusterError:
        return False
    return True


def _identity() -> str:
    """What the state folder was made for; a different one cannot be started on it."""
    return f"{s.KUBERNETES_VERSION} {s.NODE_NAME} {s.NODE_IP} {s.POD_CIDR} {s.SERVICE_CIDR}\n"


def _check_state(paths: Paths) -> None:
    """Forget a first start that was interrupted. Raises ClusterError for a state of another version."""
    stamp = paths.state / "initialised"
    if not stamp.exists():
        pki.forget(paths)
        shutil.rmtree(paths.state / "etcd", ignore_errors=True)
    elif stamp.read_text() != _identity():
        raise ClusterError(
            f"{paths.state} was made for '{stamp.read_text().strip()}', this is '{_identity().strip()}'; "
            "'python3 -m hack.cluster down --purge' deletes it"
        )


def _check_routes() -> None:
    """Raises ClusterError when the host already routes to an address range of the cluster."""
    taken = host.overlapping(host.run(["ip", "-json", "route"]), (s.POD_CIDR, s.SERVICE_CIDR, f"{s.NODE_IP}/32"))
    if taken:
        raise ClusterError(
            f"the host routes {taken[0]}, which overlaps the cluster's ranges {s.POD_CIDR}, {s.SERVICE_CIDR} and "
            f"{s.NODE_IP}; take that route away or use a cluster of your own (CLUSTER=current)"
        )


def _write_config(paths: Paths) -> None:
    resolv, nameservers = resolv_conf()
    documents = {
        "kubelet.json": components.kubelet_config(paths, resolv),
        "kube-proxy.json": components.kube_proxy_config(paths),
        "cni/10-umim.conflist": components.cni_config(paths),
    }
    for name, document in documents.items():
        (paths.config / name).write_text(json.dumps(document, indent=2) + "\n")
    (paths.config / "containerd.toml").write_text(components.containerd_config(paths))
    (paths.config / "Corefile").write_text(components.corefile(paths, resolv, nameservers))
