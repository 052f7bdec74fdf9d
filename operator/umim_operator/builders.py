"""Kubernetes manifests of the Jobs, their Secrets and the GlobalModel. Pure.

Every Pod is admitted under the restricted Pod Security Standard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from umim import contract
from umim.api.base import API_VERSION, ResourceRequirements
from umim.rounds.consent import parse_quantity, site_resources, with_default_resources
from umim.rounds.publication import ModelPublication
from umim_operator.config import JobDefaults
from umim_operator.state import Launch, RoundView

Manifest = dict[str, Any]

USER = 65532
TMP_MOUNT = "/tmp"
KEY_MODE = 0o440
"""Root and the Pod's group read a private key, see fsGroup."""
ENTRYPOINTS: dict[contract.Role, str] = {
    "init": "umim.entrypoints.pretrain",
    "site": "umim.entrypoints.train_site",
    "aggregate": "umim.entrypoints.aggregate",
}


def labels(view: RoundView, launch: Launch) -> dict[str, str]:
    """Return the labels by which the operator finds what belongs to a round."""
    found = {
        contract.LABEL_MANAGED_BY: contract.MANAGED_BY,
        contract.LABEL_ROUND_UID: view.uid,
        contract.LABEL_ROUND_NAMESPACE: view.namespace,
        contract.LABEL_ROUND_NAME: contract.site_label(view.name),
        contract.LABEL_ROLE: launch.role,
        contract.LABEL_ATTEMPT: str(launch.attempt),
    }
    if launch.site:
        found[contract.LABEL_SITE] = contract.site_label(launch.site)
    return found


def secret(view: RoundView, launch: Launch, credentials: Mapping[str, str]) -> Manifest:
    """Return the Secret with the credentials of one attempt: environment variables by name."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(launch.reference.namespace, launch.reference.name, labels(view, launch)),
        "type": "Opaque",
        "stringData": dict(credentials),
    }


def job(view: RoundView, launch: Launch, defaults: JobDefaults, traceparent: str | None) -> Manifest:
    """Return the Job of one attempt. It runs one Pod once: the planner counts attempts, not Kubernetes."""
    marks = labels(view, launch)
    annotations = {contract.ANNOTATION_SITE: launch.site} if launch.site else {}
    # Suspended from the start, not by Kueue's webhook: where Kueue is away the Job waits, it does not jump the queue.
    queue = {} if launch.queue is None else {contract.LABEL_QUEUE: launch.queue}
    suspend = {} if launch.queue is None else {"suspend": True}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(launch.reference.namespace, launch.reference.name, marks | queue, annotations),
        "spec": {
            **suspend,
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": max(1, int(launch.time_left / timedelta(seconds=1))),
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": marks},
                "spec": _pod(view, launch, defaults, traceparent),
            },
        },
    }


def global_model(namespace: str, publication: ModelPublication) -> Manifest:
    """Return the GlobalModel resource."""
    return {
        "apiVersion": API_VERSION,
        "kind": "GlobalModel",
        "metadata": _metadata(namespace, publication.name, {contract.LABEL_MANAGED_BY: contract.MANAGED_BY}),
        "spec": publication.spec.to_dict(),
    }


def _metadata(
    namespace: str, name: str, marks: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> Manifest:
    found: Manifest = {"namespace": namespace, "name": name, "labels": dict(marks)}
    if annotations:
        found["annotations"] = dict(annotations)
    return found


def _pod(view: RoundView, launch: Launch, defaults: JobDefaults, traceparent: str | None) -> Manifest:
    volumes, mounts = _volumes(view, launch)
    return {
        "restartPolicy": "Never",
        "serviceAccountName": _service_account(launch, defaults),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(view, launch, defaults, traceparent, mounts)],
        "volumes": volumes,
    }


def _container(
    view: RoundView, launch: Launch, defaults: JobDefaults, traceparent: str | None, mounts: list[Manifest]
) -> Manifest:
    requests, limits = _resources(view, launch)
    environment = contract.config_variables(launch.config.model_dump_json(by_alias=True, exclude_none=True))
    environment |= defaults.environment
    environment["OMP_NUM_THREADS"] = str(_threads(requests, limits))
    if traceparent is not None:
        environment[contract.ENV_TRACEPARENT] = traceparent
    image = defaults.aggregator_image if launch.role == "aggregate" else defaults.trainer_image
    return {
        "name": launch.role,
        "image": image,
        "imagePullPolicy": defaults.pull_policy,
        "command": ["python", "-m", ENTRYPOINTS[launch.role]],
        "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        "envFrom": [{"secretRef": {"name": launch.reference.name}}],
        "resources": {"requests": requests, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Never FallbackToLogsOnError: a log may say more of the images than may leave the hospital.
        "terminationMessagePolicy": "File",
        "terminationMessagePath": contract.TERMINATION_LOG,
        "volumeMounts": mounts,
    }


def _threads(requests: Mapping[str, str], limits: Mapping[str, str]) -> int:
    """Return the number of compute threads: the container's share of CPUs, rounded up.

    More threads than CPUs fight each other, and the number must not depend on the node: it decides the order of sums.
    """
    share = parse_quantity(limits.get("cpu") or requests.get("cpu") or "1")
    return max(1, math.ceil(share))


def _service_account(launch: Launch, defaults: JobDefaults) -> str:
    return defaults.server_service_account if launch.hospital is None else launch.hospital.service_account_name


def _resources(view: RoundView, launch: Launch) -> tuple[dict[str, str], dict[str, str]]:
    spec = view.valid_spec
    if launch.role == "site":
        return site_resources(spec)
    if launch.role == "init":
        asked = ResourceRequirements() if spec.pretraining is None else spec.pretraining.resources
    else:
        asked = spec.aggregation.resources
        if spec.distillation is not None and spec.distillation.resources != ResourceRequirements():
            asked = spec.distillation.resources
    return with_default_resources(asked.requests, asked.limits)


def _volumes(view: RoundView, launch: Launch) -> tuple[list[Manifest], list[Manifest]]:
    spec = view.valid_spec
    work: Manifest = {"emptyDir": {}}
    data: str | None = None
    if launch.hospital is not None:
        work = {"persistentVolumeClaim": {"claimName": launch.hospital.work_claim_name}}
        data = launch.hospital.data.claim_name
    elif (images := spec.server_dataset) is not None and (launch.role != "init" or spec.pretraining is not None):
        data = images.claim_name
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}, {"name": "work", **work}]
    mounts: list[Manifest] = [
        {"name": "tmp", "mountPath": TMP_MOUNT},
        {"name": "work", "mountPath": contract.WORK_MOUNT},
    ]
    # Optional: without them the Job says what is missing, instead of a Pod that never starts.
    owner = contract.FEDERATION_KEY
    if launch.hospital is not None:
        owner = launch.site.split(".", 1)[1]
        volumes.append({"name": "policy", "configMap": {"name": contract.policy_name(owner), "optional": True}})
        mounts.append({"name": "policy", "mountPath": contract.POLICY_MOUNT, "readOnly": True})
    key = {"secretName": contract.signing_name(owner), "optional": True, "defaultMode": KEY_MODE}
    volumes.append({"name": "signing", "secret": key})
    mounts.append({"name": "signing", "mountPath": contract.SIGNING_MOUNT, "readOnly": True})
    if data is not None:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": data, "readOnly": True}})
        mounts.append({"name": "data", "mountPath": contract.DATA_MOUNT, "readOnly": True})
    return volumes, mounts
