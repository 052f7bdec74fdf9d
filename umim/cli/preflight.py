"""``umim preflight``: can this cluster train? Every check that fails says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, ClassVar

import typer
from rich.table import Table
from rich.text import Text

from umim.api.base import GROUP
from umim.checks import Check, State, operator_rights_check, resources_check, store_check, version_check
from umim.cli import options, render
from umim.cli.kube import Cluster
from umim.cli.output import Format, show_json, show_list
from umim.cli.resources import Hospital
from umim.cli.store import open_store, reachable
from umim.errors import AccessDeniedError, UmimError
from umim.progress import ProgressReader
from umim.rounds.consent import DEFAULT_LIMITS, DEFAULT_REQUESTS, parse_quantity
from umim.settings import RedisSettings

GPU = "nvidia.com/gpu"
JOB_NEEDS: Mapping[str, str] = {
    "pods": "1",
    **DEFAULT_REQUESTS,
    **{f"requests.{name}": amount for name, amount in DEFAULT_REQUESTS.items()},
    **{f"limits.{name}": amount for name, amount in DEFAULT_LIMITS.items()},
}
"""What one Job of a round takes of a ResourceQuota where the round says nothing."""


STYLES = {State.ok: "green", State.warning: "yellow", State.failed: "bold red", State.skipped: "dim"}


class PreflightError(UmimError):
    """A check has failed."""

    exit_code: ClassVar[int] = 1


def preflight(
    namespace: options.Namespace = None,
    endpoint: options.Endpoint = None,
    operator_namespace: Annotated[str, typer.Option(help="Namespace of the operator.")] = "umim-system",
    output: options.Output = Format.table,
    context: options.Context = None,
) -> None:
    """Check cluster, rights, store, Redis, GPUs and quotas for rounds of a namespace. Exit code 1: a check failed.

    Changes nothing. Checks with your own rights; what you may not look at is skipped.
    """
    cluster = Cluster.connect(context)
    checks = list(run(cluster, namespace or cluster.namespace, operator_namespace, endpoint, os.environ))
    if output is Format.json:
        show_json([{**asdict(one), "state": one.state.value} for one in checks])
    else:
        show_list(checks_table(checks))
    failed = [one.name for one in checks if one.state is State.failed]
    if failed:
        raise PreflightError(f"not ready: {', '.join(failed)}")


def run(
    cluster: Cluster, namespace: str, operator_namespace: str, endpoint: str | None, env: Mapping[str, str]
) -> Iterator[Check]:
    """Yield the checks, in the order in which to repair. Raises ClusterError when the API server does not answer."""
    yield version_check(cluster.server_version())
    resources = _looked_at("resources", lambda: resources_check(cluster.served_resources()))
    yield resources
    yield _looked_at("operator", lambda: operator_check(cluster.operator_replicas(operator_namespace)))
    yield _looked_at("your rights", lambda: own_rights_check(namespace, partial(cluster.may, namespace)))
    hospitals: Sequence[Hospital] = ()
    if resources.state is State.ok:
        try:
            hospitals = [one for one in cluster.hospitals(None) if namespace in one.spec.federations]
        except AccessDeniedError:
            yield Check("hospitals", State.skipped, "you may not list Hospitals of all namespaces")
        else:
            yield hospitals_check(namespace, hospitals)
    places = sorted({namespace, *(one.namespace for one in hospitals)})
    account = _account(cluster, operator_namespace)
    for place in places:
        yield _looked_at(f"operator's rights in {place}", partial(_operator_rights, cluster, place, namespace, account))
    for place in places:
        yield _looked_at(f"quota in {place}", partial(_quota, cluster, place))
    for one in hospitals:
        yield _looked_at(f"volumes of {one.site}", partial(_volumes, cluster, one))
    yield _looked_at("store", lambda: _store(cluster, env, endpoint, operator_namespace))
    yield _looked_at("Redis", lambda: _redis(cluster, operator_namespace))
    yield _looked_at("GPU", lambda: gpu_check(cluster.allocatable(GPU)))


def checks_table(checks: Sequence[Check]) -> Table:
    """Return one row a check; the remedy below what was found."""
    table = render.list_table("CHECK", "STATE", "FOUND")
    for one in checks:
        table.add_row(Text(one.name), Text(one.state.value, style=STYLES[one.state]), Text(one.found))
        if one.remedy and one.state is not State.ok:
            table.add_row(Text(), Text(), Text(f"-> {one.remedy}", style="bold"))
    return table


def operator_check(replicas: tuple[int, int] | None) -> Check:
    """Check the operator's Deployment: its ready and wanted Pods, None where there is none."""
    if replicas is None:
        return Check(
            "operator",
            State.failed,
            "no Deployment",
            "install charts/umim, or name its namespace: --operator-namespace",
        )
    ready, wanted = replicas
    shown = f"{ready} of {wanted} Pods ready"
    if wanted == 0:
        return Check("operator", State.failed, shown, "scale its Deployment to 1")
    if ready == 0:
        return Check("operator", State.failed, shown, "kubectl describe its Pod and read its log")
    return Check("operator", State.ok, shown)


def own_rights_check(namespace: str, may: Callable[[str, str, str], bool]) -> Check:
    """Check that the caller may make rounds and read models in the namespace; ``may`` takes verb, group, resource."""
    wanted = (("create", "federationrounds"), ("get", "federationrounds"), ("get", "globalmodels"))
    missing = [f"{verb} {resource}" for verb, resource in wanted if not may(verb, GROUP, resource)]
    if missing:
        return Check(
            "your rights",
            State.failed,
            f"in {namespace} you may not {', '.join(missing)}",
            f"ask for a RoleBinding to the ClusterRole edit in {namespace}: charts/umim adds its resources to it",
        )
    return Check("your rights", State.ok, f"you may create rounds and read models in {namespace}")


def hospitals_check(namespace: str, hospitals: Sequence[Hospital]) -> Check:
    """Check that some Hospital consents to the namespace."""
    if not hospitals:
        return Check(
            "hospitals",
            State.failed,
            f"none lists {namespace} in spec.federations",
            f"hospitals join by charts/umim-hospital with hospital.federations [{namespace}]; see umim init hospital",
        )
    return Check("hospitals", State.ok, ", ".join(one.site for one in hospitals))


def quota_check(place: str, quotas: Sequence[tuple[str, Mapping[str, str], Mapping[str, str]]]) -> Check:
    """Check that one Job with default resources fits; each quota is its name, its hard limits and what is used."""
    name = f"quota in {place}"
    short = []
    for quota, hard, used in quotas:
        for resource, needed in JOB_NEEDS.items():
            if resource not in hard:
                continue
            try:
                free = parse_quantity(hard[resource]) - parse_quantity(used.get(resource, "0"))
            except ValueError:  # a form that Kubernetes knows and this tool does not
                continue
            if free < parse_quantity(needed):
                short.append(f"{quota}: {resource} {used.get(resource, '0')} of {hard[resource]} used, {needed} needed")
    if short:
        return Check(name, State.failed, "; ".join(short), f"raise the ResourceQuota in {place}, or end what uses it")
    gpu = [f"{hard[key]} GPU" for _, hard, _ in quotas if (key := f"requests.{GPU}") in hard]
    return Check(name, State.ok, ", ".join(["a default Job fits", *gpu]) if quotas else "no ResourceQuota")


def volumes_check(hospital: Hospital, claims: Mapping[str, str]) -> Check:
    """Check a hospital's volumes; ``claims`` are the namespace's PersistentVolumeClaims with their phases."""
    name = f"volumes of {hospital.site}"
    wanted = dict.fromkeys((hospital.spec.data.claim_name, hospital.spec.work_claim_name))
    missing = [claim for claim in wanted if claim not in claims]
    if missing:
        return Check(
            name,
            State.failed,
            f"no PersistentVolumeClaim {', '.join(missing)} in {hospital.namespace}",
            "make it, or name the right one in the Hospital's data.claimName and workClaimName",
        )
    unbound = [f"{claim} is {claims[claim]}" for claim in wanted if claims[claim] != "Bound"]
    if unbound:
        return Check(
            name,
            State.warning,
            ", ".join(unbound),
            "fine where the StorageClass waits for the first Pod; else kubectl describe pvc says why",
        )
    return Check(name, State.ok, ", ".join(wanted))


def gpu_check(gpus: Mapping[str, int]) -> Check:
    """Check for GPUs; ``gpus`` are the nodes that have some."""
    if not gpus:
        return Check(
            "GPU",
            State.warning,
            f"no node offers {GPU}: everything trains on CPUs",
            "install NVIDIA's device plugin on nodes with a GPU; see docs/platform-guide.md, GPUs",
        )
    return Check("GPU", State.ok, ", ".join(f"{node}: {count}" for node, count in sorted(gpus.items())))


def _looked_at(name: str, look: Callable[[], Check]) -> Check:
    """Return the check; skipped when the user may not look."""
    try:
        return look()
    except AccessDeniedError as error:
        return Check(name, State.skipped, str(error))


def _operator_rights(cluster: Cluster, place: str, federation: str, account: str) -> Check:
    return operator_rights_check(place, federation, account, partial(cluster.may, place, user=account))


def _quota(cluster: Cluster, place: str) -> Check:
    return quota_check(place, cluster.quotas(place))


def _volumes(cluster: Cluster, hospital: Hospital) -> Check:
    return volumes_check(hospital, cluster.claims(hospital.namespace))


def _account(cluster: Cluster, operator_namespace: str) -> str:
    """Return the operator's user name; that of the chart's default where it cannot be looked up."""
    try:
        account = cluster.operator_account(operator_namespace)
    except AccessDeniedError:
        account = None
    return f"system:serviceaccount:{operator_namespace}:{account or 'umim-operator'}"


def _store(cluster: Cluster, env: Mapping[str, str], endpoint: str | None, operator_namespace: str) -> Check:
    remedy = "check objectStore of charts/umim: endpoint, ca, bucket, and the Secret with the keys"
    try:
        with open_store(cluster, env, endpoint, operator_namespace) as store:
            return store_check(store, remedy)
    except AccessDeniedError:  # by the Kubernetes API
        raise
    except UmimError as error:
        return Check("store", State.failed, str(error), remedy)


def _redis(cluster: Cluster, operator_namespace: str) -> Check:
    remedy = "check redis of charts/umim; without it rounds run, but without live progress"
    try:
        settings = RedisSettings.from_env(cluster.operator_environment(operator_namespace, "UMIM_REDIS_"))
        if settings is None:
            return Check("Redis", State.warning, "the operator has no UMIM_REDIS_URL: no live progress", remedy)
        with reachable(cluster, settings.url) as (address, server_name):
            problem = _redis_problem(settings.model_copy(update={"url": address, "server_name": server_name}))
    except AccessDeniedError:
        raise
    except UmimError as error:
        return Check("Redis", State.failed, str(error), remedy)
    if problem is not None:
        return Check("Redis", State.failed, f"{settings.url} does not serve the operator: {problem}", remedy)
    return Check("Redis", State.ok, f"{settings.url} answers")


def _redis_problem(settings: RedisSettings) -> str | None:
    with ProgressReader(settings) as reader:
        return reader.problem()
