"""Where the demonstration runs: the embedded cluster, or the user's own (CLUSTER=current)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hack.cluster.settings import CONTAINERD_NAMESPACE, Paths
from hack.demo.board import Task
from hack.demo.commands import Commands
from hack.demo.errors import DemoError
from hack.demo.sites import SITES
from hack.images.catalog import TELEMETRY, delivered

USER = 65532
KINDS = ("embedded", "current")
VOLUME_LABEL = "umim.dev/demo-namespace"
OPERATOR_IMAGE = "localhost/umim/operator:dev"


class Target:
    """One cluster and how images and volumes get into it."""

    def __init__(self, commands: Commands, env: Mapping[str, str]) -> None:
        kind = env.get("CLUSTER") or "embedded"
        if kind not in KINDS:
            raise DemoError(
                f"CLUSTER={kind!r} is neither embedded (a Kubernetes started here) nor current (KUBECONFIG)."
            )
        self.embedded = kind == "embedded"
        self.registry = env.get("REGISTRY", "").rstrip("/")
        self.telemetry = _switch(env, "TELEMETRY")
        """Whether a collector and a Prometheus belong to it."""
        self.kubeconfig = ""
        self._commands = commands
        self._paths = Paths.from_env(env)
        self._tools: dict[str, str] = {}

    def hack(self, module: str, *arguments: str) -> list[str]:
        """Return the command line of one of the checkout's own tools."""
        return [sys.executable, "-m", f"hack.{module}", *arguments]

    def start(self, task: Task) -> None:
        """Bring the embedded cluster up, or check that the current one answers; find kubectl and helm."""
        advice = "See 'make cluster-status' and docs/embedded-cluster.md, then run the demo again."
        if self.embedded:
            self._commands.stream(task, "cluster", self.hack("cluster", "up"), advice)
            self.kubeconfig = str(self._paths.kubeconfig)
            self._commands.env["KUBECONFIG"] = self.kubeconfig
        else:
            self.kubeconfig = self._commands.env.get("KUBECONFIG") or str(Path.home() / ".kube/config")
        for tool in ("kubectl", "helm"):
            task.detail = f"finding {tool}"
            self._tools[tool] = self._commands.output(self.hack("cluster", "tool", tool), advice).strip()
        version = self._commands.output(
            [self._tools["kubectl"], "version", "-o", "json"], "Check KUBECONFIG: the cluster does not answer."
        )
        task.detail = f"Kubernetes {json.loads(version)['serverVersion']['gitVersion']}"

    def build_images(self, task: Task) -> None:
        """Build the images that changed."""
        again = "Run 'make demo' again: it goes on there."
        self._commands.stream(task, "images", self.hack("images", "build", *self._images), again)
        task.detail = "built"

    def deliver_images(self, task: Task) -> None:
        """Bring the images to the nodes: import, push, or load into kind or k3d."""
        again = "Run 'make demo' again: it goes on there."
        if self.embedded:
            self._commands.stream(task, "images-load", self.hack("images", "load", *self._images), again)
        elif self.registry:
            self._commands.stream(task, "images-push", self.hack("images", "push", self.registry, *self._images), again)
        else:
            archive = self._commands.logs.parent / "images.tar"
            loader = self._loader(str(archive))
            self._commands.stream(
                task, "images-archive", self.hack("images", "archive", str(archive), *self._images), again
            )
            self._commands.stream(task, "images-load", loader, again)
            archive.unlink()
        task.detail = "delivered"

    def image_values(self) -> dict[str, Any]:
        """Return the charts' values that name where the images are."""
        if not self.registry:
            return {}
        host, _, path = self.registry.partition("/")
        names = ("operator", "trainer", "aggregator", "minio", "redis", *TELEMETRY)
        repositories = {name: {"repository": f"{path}/{name}" if path else name} for name in names}
        return {"registry": host, "pullPolicy": "Always", **repositories}

    @property
    def _images(self) -> list[str]:
        """The images to deliver; empty: what every cluster runs."""
        if not self.telemetry:
            return []
        return [*(image.name for image in delivered([], "cpu")), *TELEMETRY]

    @property
    def operator_image(self) -> str:
        """Reference of the operator's image as the nodes know it."""
        return f"{self.registry}/operator:dev" if self.registry else OPERATOR_IMAGE

    def image_id(self) -> str:
        """Return what changes when the operator's image does: its digest on the embedded node, else the time."""
        if not self.embedded:
            return os.urandom(8).hex()  # a tag may have been pushed anew: always restart the operator
        socket = str(self._paths.containerd_socket)
        listed = self._commands.output(
            ["ctr", "-a", socket, "-n", CONTAINERD_NAMESPACE, "images", "ls", f"name=={OPERATOR_IMAGE}"],
            "Run 'make images'.",
        )
        rows = [line.split() for line in listed.splitlines()[1:]]
        return rows[0][2] if rows else ""

    def volumes(self) -> list[dict[str, Any]]:
        """Return PersistentVolumes for the embedded cluster, which has no provisioner; makes their folders.

        A cluster with a provisioner needs none of this.
        """
        if not self.embedded:
            return []
        claims = [("umim-system", "umim-minio")]
        for site in SITES:
            claims.append((site.namespace, "umim-hospital-data" if site.hospital else "umim-pool"))
            if site.hospital:
                claims.append((site.namespace, "umim-hospital-work"))
        return [self._volume(namespace, claim) for namespace, claim in claims]

    def remove_volumes(self, namespaces: Sequence[str]) -> None:
        """Delete the embedded cluster's volumes for these namespaces, whose claims are gone, and what they held."""
        if not self.embedded:
            return
        chosen = f"{VOLUME_LABEL} in ({','.join(namespaces)})"
        self.kubectl("delete", "pv", "-l", chosen, "--ignore-not-found", "--timeout=1m")
        for name in namespaces:
            for folder in self._folders.glob(volume_name(name, "*")):
                shutil.rmtree(folder)

    @property
    def _folders(self) -> Path:
        return self._paths.state / "demo-volumes"

    def volume_values(self, name: str) -> dict[str, str]:
        """Return a chart's values that bind a claim to its PersistentVolume, where there is one."""
        return {"storageClassName": "", "volumeName": name} if self.embedded else {}

    def kubectl(self, *arguments: str, stdin: str | None = None, advice: str = "") -> str:
        """Run kubectl and return its output."""
        return self._commands.output([self._tools["kubectl"], *arguments], advice, stdin)

    def tool(self, name: str) -> str:
        """Return the path of kubectl or helm."""
        return self._tools[name]

    def _volume(self, namespace: str, claim: str) -> dict[str, Any]:
        name = volume_name(namespace, claim)
        folder = self._folders / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, USER, USER)  # hostPath volumes ignore fsGroup
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {VOLUME_LABEL: namespace}},
            "spec": {
                "capacity": {"storage": "200Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": claim},
                "hostPath": {"path": str(folder), "type": "Directory"},
            },
        }

    def _loader(self, archive: str) -> list[str]:
        context = self.kubectl("config", "current-context").strip()
        for prefix, command in (
            ("kind-", ["kind", "load", "image-archive", archive, "--name"]),
            ("k3d-", ["k3d", "image", "import", archive, "--cluster"]),
        ):
            if context.startswith(prefix):
                return [*command, context.removeprefix(prefix)]
        raise DemoError(
            f"the current context {context!r} is neither kind's nor k3d's: set REGISTRY to one that its nodes use."
        )


def _switch(env: Mapping[str, str], name: str) -> bool:
    """Return whether a variable switches something on. Raises DemoError for what is neither on nor off."""
    value = env.get(name, "")
    if value not in ("", "0", "1"):
        raise DemoError(f"{name}={value!r} is neither 1 (on) nor 0 or empty (off).")
    return value == "1"


def volume_name(namespace: str, claim: str) -> str:
    """Return the name of the PersistentVolume that a claim of the demonstration is bound to."""
    return f"umim-demo-{namespace}-{claim}"
