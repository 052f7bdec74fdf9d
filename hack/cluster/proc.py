"""The cluster's processes: found by a mark in their environment or by their cgroup, started as daemons."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.settings import CGROUP, MARKER

PROC = Path("/proc")
POLL_S = 0.05
LOG_BYTES = 32 * 2**20
"""A log longer than this becomes `<name>.1` at the next start."""
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Process:
    """One process of the cluster.

    component: which component started it ("" for a pod's process, known by its cgroup only).
    leads: it is the component itself and no child of it. ticks: start time, clock ticks since boot.
    """

    pid: int
    component: str
    command: str
    leads: bool
    ticks: int
    rss: int


def marker_of(environ: bytes) -> str:
    """The component named in a /proc/PID/environ, or "" when the process is none of the cluster's."""
    prefix = f"{MARKER}=".encode()
    return next((v[len(prefix) :].decode() for v in environ.split(b"\0") if v.startswith(prefix)), "")


def in_cgroup(text: str) -> bool:
    """Whether a /proc/PID/cgroup names the cluster's cgroup or one below it, in any hierarchy."""
    paths = (line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2)
    return any(path == f"/{CGROUP}" or path.startswith(f"/{CGROUP}/") for path in paths)


def parse_stat(text: str) -> tuple[str, int, int, int]:
    """(state, session id, start ticks, resident pages) from a /proc/PID/stat.

    The command name may hold spaces and brackets, so the fields are counted from the last bracket.
    """
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[3]), int(fields[19]), int(fields[21])


def _read(pid: int) -> Process | None:
    folder = PROC / str(pid)
    try:
        component = marker_of((folder / "environ").read_bytes())
        if not component and not in_cgroup((folder / "cgroup").read_text()):
            return None
        state, session, ticks, pages = parse_stat((folder / "stat").read_text())
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # it ended while being looked at
    if state in "ZX":
        return None
    leads = bool(component) and session == pid and "shim" not in command.split(" ")[0]
    return Process(pid, component, command, leads, ticks, pages * os.sysconf("SC_PAGE_SIZE"))


def processes() -> list[Process]:
    """Every process of the cluster on this host, by pid. Ended ones that nobody reaped do not count."""
    pids = sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [found for pid in pids if (found := _read(pid)) is not None]


def uptime(process: Process) -> float:
    """Seconds since the process started."""
    boot = float((PROC / "uptime").read_text().split()[0])
    return boot - process.ticks / os.sysconf("SC_CLK_TCK")


def spawn(component: str, command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a daemon of its own session, output appended to `log`.

    The environment holds nothing of the caller's but the proxy settings, so `up` from a Makefile, a test
    or a terminal starts the same cluster.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    env = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    env |= {MARKER: component, "PATH": SBIN, "HOME": "/root", "LANG": "C.UTF-8"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition; whether it held within the time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


def stop(victims: Callable[[], Iterable[Process]], grace_s: float) -> None:
    """SIGTERM what `victims` lists, then SIGKILL what it still lists after `grace_s` until it lists nothing.

    The list is made anew every time, so a process forked meanwhile is found too. Gives up after 20 s (a
    process in uninterruptible sleep); the audit then names it.
    """

    def gone() -> bool:
        return not list(victims())

    if grace_s:
        _signal(victims(), signal.SIGTERM)
        if wait_until(gone, grace_s):
            return

    def killed() -> bool:
        _signal(victims(), signal.SIGKILL)
        return gone()

    wait_until(killed, 20)


def _signal(targets: Iterable[Process], number: int) -> None:
    for target in targets:
        try:
            os.kill(target.pid, number)
        except ProcessLookupError:
            continue
