"""The hands of the chaos tests on this host: the embedded cluster's daemons and the processes of its Pods.

Pods of the embedded cluster are processes of this host, so they can be killed, frozen and squeezed as a kernel or a
hardware fault would do it, without the Kubernetes API knowing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import cluster, gotools, kubectl, proc
from hack.cluster import settings as s
from hack.cluster.progress import Progress
from hack.cluster.settings import Paths
from hack.testenv.api import Object
from hack.testenv.waiting import WaitError, wait_until

HEALTHY_SECONDS = 90.0
SLICE_SECONDS = 0.003
"""How long a process runs between two looks of ``catch``."""
ESTABLISHED = "01"
SPARE_BYTES = 4 << 20
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
"""Where control groups of version 1 and of version 2 are."""


def kill_components(names: Sequence[str], down_seconds: float) -> float:
    """Kill daemons of the cluster with SIGKILL and start them again after a while. Returns the seconds without them."""
    paths = Paths.from_env(os.environ)
    parts = cluster.built_components(paths)
    begin = time.monotonic()
    for process in proc.processes():
        if process.leads and process.component in names:
            os.kill(process.pid, signal.SIGKILL)
    time.sleep(down_seconds)
    for name in (*names, "kube-apiserver"):  # which is healthy only when its etcd is
        if name in names:  # one after the other: kubelet ends where containerd is not ready
            proc.spawn(name, parts[name].command, paths.logs / f"{name}.log")
        if not proc.wait_until(lambda part=parts[name]: cluster.healthy(part, paths), HEALTHY_SECONDS):  # type: ignore[misc]
            raise WaitError(f"{name} is not healthy {HEALTHY_SECONDS:.0f} s after its start")
    took = time.monotonic() - begin
    if "kubelet" in names:
        _advertise_gpus(paths)
    return took


def _advertise_gpus(paths: Paths) -> None:
    """A starting kubelet forgets the GPUs that only the cluster's start announced."""
    client = kubectl.Kubectl(gotools.ensure(["kubectl"], paths.cache, Progress())["kubectl"], paths.kubeconfig)

    def shown() -> bool:
        client.set_gpus()
        return kubectl.gpus(client.node()) == s.GPU_COUNT

    wait_until("the node has its GPUs again", shown, HEALTHY_SECONDS, lambda: str(client.node()["status"]))


@dataclass(frozen=True)
class PodProcess:
    """The main process of a Pod's container, seen from this host."""

    pid: int

    @classmethod
    def of(cls, pod: Object, text: str) -> PodProcess | None:
        """Return the oldest process of a Pod whose command line holds a text. None: there is none now."""
        mark = f"pod{pod['metadata']['uid']}"
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            with suppress(OSError):
                if mark in (process / "cgroup").read_text() and text in _command(process):
                    return cls(int(process.name))
        return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal. A process that has just ended is no error."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the process from running while the block runs."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def queues(self, port: int) -> list[tuple[int, int]]:
        """Return the bytes received but unread and those sent but not acknowledged, for each connection of a port."""
        found = []
        for table in ("tcp", "tcp6"):
            with suppress(OSError):
                for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == ESTABLISHED and int(fields[1].rsplit(":", 1)[1], 16) == port:
                        sent, received = fields[4].split(":")
                        found.append((int(received, 16), int(sent, 16)))
        return found

    def catch(self, seen: Callable[[list[tuple[int, int]]], bool], port: int, seconds: float, settle: float) -> None:
        """Stop the process in the moment in which its connections are as wanted; it stays stopped.

        It runs in slices of a few milliseconds until then, so that the moment is not missed. ``settle``: seconds that
        its peers get to fill its queues, each time that it is stopped. Raises WaitError when the moment does not come.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.send(signal.SIGSTOP)
            time.sleep(settle)
            if seen(self.queues(port)):
                return
            self.send(signal.SIGCONT)
            time.sleep(SLICE_SECONDS)
        raise WaitError(f"process {self.pid} had no such connection on port {port} in {seconds:.0f} s")

    def exhaust(self, seconds: float = 60.0) -> None:
        """Let the kernel kill the process for its memory: its container may take no more, and something takes it.

        Raises WaitError when the process lives on.
        """
        folder, limit, used, cache = self._memory()
        statistics = {
            name: int(value) for name, value in map(str.split, (folder / "memory.stat").read_text().splitlines())
        }
        # What the kernel can take back does not count: with it as a reserve nothing would have to be killed.
        cached = statistics[cache] - statistics["shmem"]
        allowed = int((folder / used).read_text()) - cached + SPARE_BYTES
        (folder / limit).write_text(str(allowed))
        # The kernel kills the largest process of the container, which is never the one that takes what is left.
        program = f"import time; x = b'x' * {allowed}; time.sleep({seconds})"
        join = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0'); "
        taker = subprocess.Popen([sys.executable, "-c", join + program])
        try:
            gone = f"process {self.pid} is killed for its memory"
            wait_until(gone, lambda: not Path(f"/proc/{self.pid}/environ").exists(), seconds, lambda: "it lives")
        finally:
            taker.kill()
            taker.wait()

    def _memory(self) -> tuple[Path, str, str, str]:
        """Return the control group of the process, its files with limit and use, and what it calls the page cache.

        Control groups of version 1 and 2 have other names for them.
        """
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if names == "memory":
                return MEMORY_CGROUPS[0] / path.lstrip("/"), "memory.limit_in_bytes", "memory.usage_in_bytes", "cache"
            if not names and (MEMORY_CGROUPS[1] / path.lstrip("/") / "memory.max").exists():
                return MEMORY_CGROUPS[1] / path.lstrip("/"), "memory.max", "memory.current", "file"
        raise WaitError(f"process {self.pid} is in no control group for memory")


def _command(process: Path) -> str:
    return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
