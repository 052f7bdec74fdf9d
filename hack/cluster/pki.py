"""Certificates and kubeconfigs, written by kubeadm's own phases."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hack.cluster import components, settings
from hack.cluster.progress import ClusterError
from hack.cluster.settings import Paths

CLIENTS = {"kube-proxy": "system:kube-proxy", "coredns": "system:umim-coredns"}
"""Kubeconfig name -> user name, for the components kubeadm would run as pods."""


def ensure(paths: Paths, tools: Mapping[str, Path]) -> None:
    """Write what is missing. Existing certificates are kept, so clients stay valid over `down` and `up`.

    Raises ClusterError when kubeadm fails.
    """
    config = paths.config / "kubeadm.yaml"
    documents = components.kubeadm_config(paths)
    config.write_text("\n---\n".join(json.dumps(document, indent=2) for document in documents))
    kubeadm = str(tools["kubeadm"])
    paths.kubeconfigs.mkdir(mode=0o700, exist_ok=True)
    phase = (kubeadm, "init", "phase")
    _run([*phase, "certs", "all", "--config", str(config)])
    _run([*phase, "kubeconfig", "all", "--config", str(config), "--kubeconfig-dir", str(paths.kubeconfigs)])
    for name, user in CLIENTS.items():
        target = paths.kubeconfigs / f"{name}.conf"
        if not target.exists():
            text = _run([kubeadm, "kubeconfig", "user", "--config", str(config), "--client-name", user])
            _write_private(target, text)
    admin = (paths.kubeconfigs / "admin.conf").read_text()
    if not paths.kubeconfig.exists() or paths.kubeconfig.read_text() != admin:
        _write_private(paths.kubeconfig, admin)


def forget(paths: Paths) -> None:
    """Delete all of it, with the kubelet's own certificates, so that `ensure` starts anew."""
    for folder in (paths.pki, paths.kubeconfigs, paths.state / "kubelet/pki"):
        shutil.rmtree(folder, ignore_errors=True)
    paths.kubeconfig.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.replace(path)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(
            f"'{' '.join(command[1:5])}' of kubeadm {settings.KUBERNETES_VERSION} failed: "
            f"{done.stderr.strip()[-600:]}. 'python3 -m hack.cluster down --purge' starts over."
        )
    return done.stdout
