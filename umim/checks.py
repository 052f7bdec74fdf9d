"""Checks of a cluster that ``umim preflight`` and ``helm test`` share. Every check that fails says what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from umim import contract
from umim.api.base import GROUP, VERSION
from umim.artifacts.store import ObjectStore
from umim.errors import UmimError

LEAST_VERSION = (1, 30)
"""Kubernetes versions whose API server knows the CEL functions of the CRDs, as the chart's kubeVersion."""
KINDS = ("federations", "federationrounds", "hospitals", "globalmodels")
OPERATOR_RIGHTS = (("create", "batch", "jobs"), ("delete", "batch", "jobs"), ("create", "", "secrets"))
"""What the operator must be able to do where a Job is to run: verb, group, resource."""


class State(StrEnum):
    """Outcome of a check."""

    ok = "ok"
    warning = "warning"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    """What was looked at."""
    state: State
    """Outcome. skipped: it could not be looked at, which says nothing about the cluster."""
    found: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


def version_check(version: tuple[int, int]) -> Check:
    """Check the API server's version (major, minor)."""
    shown = "Kubernetes {}.{}".format(*version)
    least = "{}.{}".format(*LEAST_VERSION)
    if version < LEAST_VERSION:
        return Check("cluster", State.failed, shown, f"upgrade the cluster to Kubernetes {least} or newer")
    return Check("cluster", State.ok, shown)


def resources_check(served: Sequence[str]) -> Check:
    """Check that the API server knows all kinds; ``served`` are the plural names in the group."""
    missing = [name for name in KINDS if name not in served]
    if missing:
        names = ", ".join(f"{name}.{GROUP}" for name in missing)
        return Check(
            "resources", State.failed, f"{GROUP}/{VERSION} lacks {names}", "install or upgrade charts/umim with helm"
        )
    return Check("resources", State.ok, f"{GROUP}/{VERSION} with {', '.join(KINDS)}")


def operator_rights_check(place: str, federation: str, account: str, may: Callable[[str, str, str], bool]) -> Check:
    """Check that the operator may run Jobs in a namespace."""
    name = f"operator's rights in {place}"
    missing = [f"{verb} {resource}" for verb, group, resource in OPERATOR_RIGHTS if not may(verb, group, resource)]
    if missing:
        remedy = (
            f"add {place} to federations.namespaces of charts/umim"
            if place == federation
            else f"install charts/umim-hospital in {place}, with operator.namespace and serviceAccount of {account}"
        )
        return Check(name, State.failed, f"it may not {', '.join(missing)}", remedy)
    return Check(name, State.ok, "it may run Jobs")


def store_check(store: ObjectStore, remedy: str) -> Check:
    """Check that the store answers and its keys may read models: any will do, also one that is not there."""
    try:
        store.stat(contract.model_manifest_key("0" * 64))
    except UmimError as error:
        return Check("store", State.failed, str(error), remedy)
    return Check("store", State.ok, "answers, and the keys may read")
