"""Picks from rendered documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Document = dict[str, Any]
Rule = tuple[str, str, frozenset[str]]


def of_kind(documents: Iterable[Document], kind: str) -> dict[str, Document]:
    """Return the documents of a kind by name, or by namespace/name where names repeat."""
    found = [document for document in documents if document["kind"] == kind]
    names = [document["metadata"]["name"] for document in found]
    if len(set(names)) == len(names):
        return dict(zip(names, found, strict=True))
    return {f"{d['metadata']['namespace']}/{d['metadata']['name']}": d for d in found}


def pod_specs(documents: Iterable[Document]) -> dict[str, Document]:
    """Return the Pod specs of all workloads, by kind/name."""
    return {
        f"{document['kind']}/{document['metadata']['name']}": document["spec"]["template"]["spec"]
        for document in documents
        if "template" in document.get("spec", {})
    }


def rights(role: Document) -> set[tuple[str, str, str]]:
    """Return what a role permits, as (API group, resource, verb)."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def expand(*lines: str) -> set[tuple[str, str, str]]:
    """Return rights written as 'group/resource: verb verb', the core group as an empty name."""
    result = set()
    for line in lines:
        target, verbs = line.split(": ")
        group, _, resource = target.partition("/")
        result |= {(group, resource, verb) for verb in verbs.split()}
    return result


def restricted_violations(pod: Document) -> list[str]:
    """Return what in a Pod spec breaks the restricted Pod Security Standard, or UMIM's own rules on top of it."""
    found = []
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") != 65532:
        found.append("the Pod may run as root")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("no seccomp profile")
    found += [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - allowed:
            found.append(f"volume {volume['name']} is {kinds}")
    for container in pod["containers"] + pod.get("initContainers", []):
        security = container.get("securityContext", {})
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if security != wanted:
            found.append(f"container {container['name']} has securityContext {security}")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            found.append(f"container {container['name']} has no memory limit")
    return found
