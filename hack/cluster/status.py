"""The `status` table."""

from collections.abc import Sequence
from dataclasses import asdict

from hack.cluster import audit, cluster, gotools, images, kubectl, proc
from hack.cluster import settings as s
from hack.cluster.progress import ClusterError, clock
from hack.cluster.settings import Paths


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def report(paths: Paths) -> tuple[str, bool]:
    """(text, whether the cluster is healthy). A cluster that is down is not."""
    found = audit.audit(paths)
    if found.empty:
        return f"the embedded cluster is down; nothing of it is on this host\nstate  {paths.state}", False
    rows, fine = _components(paths)
    facts, node_fine = _facts(paths)
    counts = ", ".join(f"{len(items)} {kind}" for kind, items in asdict(found).items())
    return f"{table(rows)}\n\n{table([*facts, ('on this host', counts)])}", fine and node_fine


def _components(paths: Paths) -> tuple[list[list[str]], bool]:
    rows, fine = [["COMPONENT", "PID", "UPTIME", "RSS", "HEALTH"]], True
    running = {p.component: p for p in proc.processes() if p.leads}
    for name, part in cluster.built_components(paths).items():
        process = running.get(name)
        good = process is not None and cluster.healthy(part, paths)
        fine = fine and good
        rows.append([name, "-", "-", "-", "not running"])
        if process:
            size, health = f"{process.rss / 2**20:.0f} MiB", "ok" if good else "failing"
            rows[-1] = [name, str(process.pid), clock(proc.uptime(process)), size, health]
    return rows, fine


def _facts(paths: Paths) -> tuple[list[tuple[str, str]], bool]:
    facts, fine = [], True
    try:
        client = kubectl.Kubectl(gotools.tool_path("kubectl", paths.cache), paths.kubeconfig)
        node = client.node()
        ready = kubectl.ready_since_start(node, 0)
        version = node["status"]["nodeInfo"]["kubeletVersion"]
        facts.append(("node", f"{s.NODE_NAME} {'Ready' if ready else 'NotReady'}, {version}, {s.NODE_IP}"))
        facts.append(("gpus", f"{kubectl.gpus(node)} x {s.GPU_RESOURCE}"))
        fine = ready and kubectl.gpus(node) == s.GPU_COUNT
        facts.append(("images", f"{len(images.present(paths))} loaded"))
    except ClusterError as error:
        facts.append(("node", str(error)))
        fine = False
    size, free = audit.disk_bytes(paths.state), audit.free_bytes(paths.state)
    facts += [
        ("state", f"{paths.state}, {size / 1e9:.2f} GB ({free / 1e9:.0f} GB free)"),
        ("logs", str(paths.logs)),
        ("kubeconfig", str(paths.kubeconfig)),
    ]
    return facts, fine
