"""Installs UMIM and the three hospitals with Helm, and fills the hospitals' volumes. Idempotent."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hack.demo.board import Task
from hack.demo.commands import ROOT, Commands
from hack.demo.data import Prepared
from hack.demo.errors import DemoError
from hack.demo.sites import SITES, Site
from hack.demo.target import USER, Target, volume_name
from hack.images.catalog import TELEMETRY

SYSTEM = "umim-system"
FEDERATION = "federation"
NAMESPACES = (SYSTEM, *(site.namespace for site in SITES))
POOL_CLAIM = "umim-pool"
DATA_CLAIM = "umim-hospital-data"
MARK = "umim.dev/demo-data"
LOADER = "umim-demo-loader"
WAIT = "5m"
PART_OF = "umim-demo"

Manifest = dict[str, Any]


class Installer:
    """Everything between a running cluster and the first round."""

    def __init__(self, target: Target, commands: Commands) -> None:
        self._target = target
        self._commands = commands

    def install(self, task: Task, prepared: list[Prepared]) -> None:
        """Make namespaces and volumes, install both charts, copy the images; done when the operator is ready."""
        self._refuse_foreign_release()
        task.detail = "namespaces and volumes"
        self._apply([namespace(name) for name in NAMESPACES] + self._target.volumes() + [self._pool_claim()])
        with ThreadPoolExecutor(max_workers=4) as pool:
            umim = pool.submit(self._helm, "umim", SYSTEM, "charts/umim", self._umim_values(), wait=True)
            task.detail = "charts/umim: resource definitions"
            self._await_definitions(umim.done)
            task.detail = "charts/umim-hospital, three times"
            hospitals = [
                pool.submit(
                    self._helm, "umim-hospital", site.namespace, "charts/umim-hospital", self._hospital_values(site)
                )
                for site in SITES
                if site.hospital
            ]
            for future in hospitals:
                future.result()
            task.detail = "copying images into the volumes"
            copies = [pool.submit(self._fill, one) for one in prepared]
            copied = sum([copy.result() for copy in copies])
            task.detail = "waiting for MinIO, Redis and the operator"
            umim.result()
        self._restart_if_changed()
        task.detail = f"operator ready; {copied or 'no'} volumes filled"

    def _refuse_foreign_release(self) -> None:
        """On a cluster of the user's own, leave an installation alone that is not the demonstration's."""
        labels = self._target.kubectl(
            "get", "namespace", SYSTEM, "--ignore-not-found", "-o", "jsonpath={.metadata.labels}"
        )
        if not self._target.embedded and labels and PART_OF not in json.loads(labels).values():
            raise DemoError(
                f"namespace {SYSTEM} exists and is not the demo's: it would overwrite an installation of UMIM; "
                "use a cluster without one."
            )

    def _await_definitions(self, helm_ended: Any) -> None:
        kinds = ("federations", "federationrounds", "globalmodels", "hospitals")
        names = [f"crd/{plural}.umim.dev" for plural in kinds]
        for _ in range(60):
            try:
                self._target.kubectl("wait", "--for=condition=Established", "--timeout=5s", *names)
            except DemoError:
                # Not made yet: kubectl wait fails at once. When Helm has ended, its own error says more.
                if helm_ended():
                    return
            else:
                return

    def _helm(self, release: str, name: str, chart: str, values: Manifest, wait: bool = False) -> None:
        command = [self._target.tool("helm"), "upgrade", "--install", release, str(ROOT / chart), "--namespace", name]
        command += ["--values", "-", "--timeout", WAIT, *(["--wait"] if wait else [])]
        advice = f"See 'kubectl get pods,events -n {name}', then run the demo again."
        self._commands.output(command, advice, stdin=json.dumps(values))

    def _umim_values(self) -> Manifest:
        minio = {"enabled": True, "persistence": self._target.volume_values(volume_name(SYSTEM, "umim-minio"))}
        return {
            "image": self._target.image_values(),
            "federations": {"namespaces": self._federations()},
            "minio": minio,
            "redis": {"enabled": True},
            "telemetry": {name: {"enabled": self._target.telemetry} for name in TELEMETRY},
        }

    def _federations(self) -> list[str]:
        """Return the demonstration's federation and those that an installed release serves: tests share it."""
        listed = self._commands.output(
            [self._target.tool("helm"), "list", "-n", SYSTEM, "-o", "json", "-f", "^umim$"], ""
        )
        if not json.loads(listed):
            return [FEDERATION]
        values = self._commands.output(
            [self._target.tool("helm"), "get", "values", "umim", "-n", SYSTEM, "-o", "json"], ""
        )
        served = ((json.loads(values) or {}).get("federations") or {}).get("namespaces", [])
        names = self._target.kubectl("get", "namespaces", "-o", "name").split()
        return sorted({FEDERATION, *(name for name in served if f"namespace/{name}" in names)})

    def _hospital_values(self, site: Site) -> Manifest:
        volumes = {
            kind: {"size": size, **self._target.volume_values(volume_name(site.namespace, f"umim-hospital-{kind}"))}
            for kind, size in (("data", "1Gi"), ("work", "2Gi"))
        }
        data = {"format": site.format, "task": site.task, "labelsFile": site.labels_file or ""}
        return {
            "operator": {"namespace": SYSTEM, "serviceAccount": "umim-operator"},
            "hospital": {"name": site.hospital, "federations": [FEDERATION], "data": data},
            "volumes": volumes,
        }

    def _pool_claim(self) -> Manifest:
        spec: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        spec |= self._target.volume_values(volume_name(FEDERATION, POOL_CLAIM))
        metadata = {"name": POOL_CLAIM, "namespace": FEDERATION}
        return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}

    def _fill(self, one: Prepared) -> int:
        """Copy a site's images into its volume through a Pod, as a hospital would; 0 when they are there already."""
        name = one.site.namespace
        claim = DATA_CLAIM if one.site.hospital else POOL_CLAIM
        mark = f"jsonpath={{.metadata.annotations.{MARK.replace('.', chr(92) + '.')}}}"
        if self._target.kubectl("get", "pvc", claim, "-n", name, "-o", mark).strip() == one.digest:
            return 0
        advice = f"See 'kubectl describe pod {LOADER} -n {name}', then run the demo again."
        self._target.kubectl("delete", "pod", LOADER, "-n", name, "--ignore-not-found", "--grace-period=0", "--force")
        self._apply([loader_pod(name, claim, self._target.operator_image)])
        try:
            self._target.kubectl(
                "wait", "--for=condition=Ready", f"pod/{LOADER}", "-n", name, f"--timeout={WAIT}", advice=advice
            )
            self._copy(name, one.folder, advice)
        finally:
            self._target.kubectl("delete", "pod", LOADER, "-n", name, "--grace-period=0", "--force")
        self._target.kubectl("annotate", "pvc", claim, "-n", name, "--overwrite", f"{MARK}={one.digest}")
        return 1

    def _copy(self, name: str, folder: Path, advice: str) -> None:
        script = "find /data -mindepth 1 -delete && tar -x --no-same-owner -C /data"
        remote = [self._target.tool("kubectl"), "exec", "-i", LOADER, "-n", name, "--", "sh", "-c", script]
        with subprocess.Popen(["tar", "-c", "-C", str(folder), "."], stdout=subprocess.PIPE) as tar:
            run = subprocess.run(
                remote, stdin=tar.stdout, env=self._commands.env, capture_output=True, text=True, check=False
            )
        if run.returncode != 0 or tar.returncode != 0:
            raise DemoError(f"could not copy images into namespace {name}: {run.stderr.strip()}\n{advice}")

    def _restart_if_changed(self) -> None:
        """Roll the operator when its image changed under the same tag; Kubernetes sees no change in that."""
        template = {"metadata": {"annotations": {"umim.dev/image-id": self._target.image_id()}}}
        patch = json.dumps({"spec": {"template": template}})
        self._target.kubectl("patch", "deployment", "umim-operator", "-n", SYSTEM, "--patch", patch)
        self._target.kubectl(
            *("rollout", "status", "deployment/umim-operator", "-n", SYSTEM, f"--timeout={WAIT}"),
            advice=f"See 'kubectl logs -n {SYSTEM} deployment/umim-operator', then run the demo again.",
        )

    def _apply(self, manifests: list[Manifest]) -> None:
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self._target.kubectl("apply", "--server-side", "--field-manager=umim-demo", "-f", "-", stdin=document)


def namespace(name: str) -> Manifest:
    """Return a namespace that admits only Pods under the restricted Pod Security Standard."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    labels["app.kubernetes.io/part-of"] = PART_OF
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def loader_pod(name: str, claim: str, image: str) -> Manifest:
    """Return a Pod that holds a claim's volume open at /data for a copy."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {
        "name": "loader",
        "image": image,
        "command": ["sleep", "600"],
        "securityContext": security,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": LOADER, "namespace": name}, "spec": spec}
