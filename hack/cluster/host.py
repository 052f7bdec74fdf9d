"""Mounts, links, network namespaces, cgroups and iptables rules: what of them is the cluster's, and removal."""

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from hack.cluster.settings import CGROUP, NODE_BRIDGE, NODE_IP, POD_BRIDGE, POD_CIDR, RULE_COMMENT

CGROUP_ROOT = Path("/sys/fs/cgroup")
TABLES = ("raw", "mangle", "nat", "filter")
OWN_CHAIN = re.compile(r"^KUBE-")
"""Chains of kube-proxy and the kubelet. The CNI plugins in use (bridge, host-local) make none."""


def run(command: Sequence[str], stdin: str | None = None) -> str:
    """Output of a command. Raises subprocess.CalledProcessError when it fails."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout


# Mounts ---------------------------------------------------------------------------------------------


def parse_mountinfo(text: str, roots: Iterable[Path]) -> list[str]:
    """Mount points below the roots, deepest and latest first, from a /proc/self/mountinfo."""
    found = []
    for line in text.splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4])
        if any(Path(point).is_relative_to(root) for root in roots):
            found.append(point)
    found.reverse()  # of two mounts on one point, the later one covers the other
    return sorted(found, key=lambda point: -point.count("/"))


def mounts(roots: Iterable[Path]) -> list[str]:
    """Mount points below the folders, in the order in which to unmount them."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(), roots)


def unmount(roots: Sequence[Path]) -> None:
    """Unmount everything below the folders; lazily where something still holds it."""
    for point in mounts(roots):
        done = subprocess.run(["umount", point], capture_output=True, check=False)
        if done.returncode:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)


def remove_tree(path: Path) -> None:
    """Delete a folder, never what is mounted in it.

    Raises RuntimeError when a mount is left below it: deleting through it would delete a user's data.
    """
    left = mounts([path])
    if left:
        raise RuntimeError(f"{path} still holds the mount {left[0]}; unmount it, then run the command again")
    shutil.rmtree(path, ignore_errors=True)


# Links ----------------------------------------------------------------------------------------------


def parse_links(text: str) -> list[str]:
    """The cluster's links from `ip -json link`: its pods' ends on the bridge first, then the bridges."""
    links = [entry for entry in json.loads(text or "[]") if entry]
    ports = [entry["ifname"] for entry in links if entry.get("master") == POD_BRIDGE]
    bridges = [entry["ifname"] for entry in links if entry["ifname"] in (NODE_BRIDGE, POD_BRIDGE)]
    return ports + bridges


def links() -> list[str]:
    """Names of the cluster's network links."""
    return parse_links(run(["ip", "-json", "link"])) if shutil.which("ip") else []


def overlapping(text: str, ranges: Iterable[str]) -> list[str]:
    """Routes of `ip -json route`, but the default and the cluster's own, that overlap one of the ranges."""
    wanted = [ipaddress.ip_network(text) for text in ranges]
    found = []
    for route in json.loads(text or "[]"):
        if route["dst"] != "default" and route.get("dev") not in (NODE_BRIDGE, POD_BRIDGE):
            network = ipaddress.ip_network(route["dst"])
            if any(network.overlaps(one) for one in wanted):
                found.append(f"{network} on {route.get('dev', 'no device')}")
    return found


def remove_links() -> None:
    """Delete the pods' links and the bridges."""
    for name in links():
        # Deleting a namespace's end deletes the other one too.
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


def make_node_bridge() -> None:
    """Give the node its address. Raises CalledProcessError when the kernel has no bridges."""
    if NODE_BRIDGE not in links():
        run(["ip", "link", "add", NODE_BRIDGE, "type", "bridge"])
    run(["ip", "address", "replace", f"{NODE_IP}/32", "dev", NODE_BRIDGE])
    run(["ip", "link", "set", NODE_BRIDGE, "up"])


def set_sysctls() -> None:
    """What kube-proxy and the bridge need of the kernel."""
    subprocess.run(["modprobe", "-a", "br_netfilter", "overlay"], capture_output=True, check=False)
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != "1":
            path.write_text("1")


# cgroups --------------------------------------------------------------------------------------------


def cgroups(root: Path = CGROUP_ROOT) -> list[Path]:
    """The cluster's cgroup in every hierarchy in which it exists."""
    candidates = [root / CGROUP, *(root.glob(f"*/{CGROUP}"))]
    return sorted({path.resolve() for path in candidates if path.is_dir()})


def make_cgroups() -> None:
    """Create the cgroup the kubelet's cgroupRoot names, in every hierarchy (version 1) or the one (2)."""
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        for folder in (CGROUP_ROOT, CGROUP_ROOT / CGROUP):
            folder.mkdir(exist_ok=True)
            for controller in (folder / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):  # a controller the host does not delegate
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        return
    for hierarchy in sorted(path for path in CGROUP_ROOT.iterdir() if path.is_dir() and not path.is_symlink()):
        folder = hierarchy / CGROUP
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists():  # a cpuset starts empty, and then takes no process
                (folder / name).write_text((hierarchy / name).read_text())


def remove_cgroups() -> None:
    """Remove the cluster's cgroups, children first. One that holds a process stays."""
    for top in cgroups():
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


# iptables -------------------------------------------------------------------------------------------


def own_rules(saved: str) -> tuple[list[str], list[str]]:
    """(rules, chains) of the cluster in one table of an iptables-save output.

    Rules are `-A CHAIN ...` lines in foreign chains that jump to a chain of the cluster's or carry its
    comment. Chains are those of Kubernetes.
    """
    chains = [line[1:].split(" ")[0] for line in saved.splitlines() if line.startswith(":")]
    own = [chain for chain in chains if OWN_CHAIN.match(chain)]
    rules = []
    for line in saved.splitlines():
        if not line.startswith("-A ") or line.split(" ")[1] in own:
            continue
        target = re.search(r" -[jg] (\S+)", line)
        if (target and target[1] in own) or re.search(rf'--comment "?{RULE_COMMENT}"?( |$)', line):
            rules.append(line)
    return rules, own


def restore_input(table: str, saved: str) -> str:
    """iptables-restore --noflush input that removes the cluster's rules and chains; "" when none."""
    rules, chains = own_rules(saved)
    if not rules and not chains:
        return ""
    lines = [f"*{table}"]
    lines += [f":{chain} - [0:0]" for chain in chains]  # declaring a chain empties it
    lines += [rule.replace("-A", "-D", 1) for rule in rules]
    lines += [f"-X {chain}" for chain in chains]
    return "\n".join([*lines, "COMMIT", ""])


def _families() -> list[str]:
    return [name for name in ("iptables", "ip6tables") if shutil.which(f"{name}-save")]


def _saved(family: str, table: str) -> str:
    """iptables-save of one table; "" when the kernel does not have the table."""
    done = subprocess.run([f"{family}-save", "-t", table], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def rules() -> list[str]:
    """The cluster's rules and chains, as text with their table."""
    found = []
    for family in _families():
        for table in TABLES:
            own, chains = own_rules(_saved(family, table))
            found += [f"{family} {table} {text}" for text in (*own, *chains)]
    return found


def remove_rules() -> None:
    """Remove the cluster's rules and chains; foreign ones stay."""
    for family in _families():
        for table in TABLES:
            text = restore_input(table, _saved(family, table))
            if text:
                run([f"{family}-restore", "--noflush"], stdin=text)


def add_rules() -> None:
    """Let pods reach the outside, and each other where the host's policy is to drop."""
    mark = ["-m", "comment", "--comment", RULE_COMMENT]
    masquerade = ["-s", POD_CIDR, "!", "-d", POD_CIDR, "!", "-o", POD_BRIDGE, *mark, "-j", "MASQUERADE"]
    run(["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", *masquerade])
    for side in ("-i", "-o"):
        run(["iptables", "-w", "-A", "FORWARD", side, POD_BRIDGE, *mark, "-j", "ACCEPT"])
