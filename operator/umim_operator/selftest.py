"""``helm test``: can the operator do its work here? ``python -m umim_operator.selftest NAMESPACE...``.

Runs in a Pod with the operator's own account, environment and network, so that it finds what the operator would. The
arguments are the namespaces of the federations.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TextIO

from umim.api.base import GROUP, VERSION
from umim.artifacts.minio import MinioStore, RetryPolicy
from umim.artifacts.policies import init_policy
from umim.checks import Check, State, operator_rights_check, resources_check, store_check, version_check
from umim.errors import UmimError
from umim.progress import ProgressReader
from umim.settings import RedisSettings, StoreSettings
from umim_operator.credentials import assume_role, expiring
from umim_operator.kube import Kube, KubeError, load_client

PROBE = "selftest"
"""Stands for a round in what is asked for and never used."""
LIFETIME = timedelta(minutes=15)
"""The shortest that STS gives."""
STORE_REMEDY = "check objectStore of charts/umim: endpoint, bucket, and the Secret with the keys"
REDIS_REMEDY = "check redis of charts/umim; without it rounds run, but without live progress"


def run(kube: Kube, namespaces: Sequence[str], env: Mapping[str, str], now: datetime) -> Iterator[Check]:
    """Yield the checks, in the order in which to repair."""
    yield _asked("cluster", lambda: version_check(kube.version()))
    yield _asked("resources", lambda: resources_check(kube.served(GROUP, VERSION)))
    for place in namespaces:
        may = partial(kube.may, place)
        yield _asked(f"operator's rights in {place}", partial(operator_rights_check, place, place, "", may))
    yield _asked("hospitals", partial(_hospitals, kube, namespaces))
    yield from _store(env, now)
    yield _redis(env)


def _asked(name: str, look: Callable[[], Check]) -> Check:
    """Return the check; failed when the API server does not answer the operator's account."""
    try:
        return look()
    except KubeError as error:
        remedy = "helm upgrade the release: it makes the operator's account and rights"
        return Check(name, State.failed, str(error), remedy)


def _hospitals(kube: Kube, namespaces: Sequence[str]) -> Check:
    bodies = kube.list("Hospital")
    sites = sorted(
        f"{body['metadata']['namespace']}.{body['metadata']['name']}"
        for body in bodies
        if set(body["spec"].get("federations", [])) & set(namespaces)
    )
    if not sites:
        return Check(
            "hospitals",
            State.warning,
            f"none consents to {', '.join(namespaces)} yet",
            "hospitals join by charts/umim-hospital with hospital.federations",
        )
    return Check("hospitals", State.ok, ", ".join(sites))


def _store(env: Mapping[str, str], now: datetime) -> Iterator[Check]:
    try:
        settings = StoreSettings.from_env(env)
        yield store_check(MinioStore.from_settings(settings, RetryPolicy(attempts=3)), STORE_REMEDY)
    except UmimError as error:
        yield Check("store", State.failed, str(error), STORE_REMEDY)
        return
    name = "credentials of Jobs"
    try:
        assume_role(settings, expiring(init_policy(settings.bucket, PROBE), now + LIFETIME), LIFETIME)
    except UmimError as error:
        remedy = "the store must offer MinIO's form of STS AssumeRole to the operator's user: docs/platform-guide.md"
        yield Check(name, State.failed, str(error), remedy)
    else:
        yield Check(name, State.ok, "the store mints temporary ones")


def _redis(env: Mapping[str, str]) -> Check:
    try:
        settings = RedisSettings.from_env(env)
    except UmimError as error:
        return Check("Redis", State.failed, str(error), REDIS_REMEDY)
    if settings is None:
        return Check("Redis", State.warning, "none is set: no live progress", REDIS_REMEDY)
    with ProgressReader(settings) as reader:
        if not reader.latest(PROBE, [PROBE]).available:
            return Check("Redis", State.failed, f"{settings.url} does not answer or refuses the operator", REDIS_REMEDY)
        minted = reader.mint_user(PROBE, PROBE, 1)
        reader.drop_user(PROBE, PROBE, 1)
    if minted is None:
        remedy = "let the operator's user in Redis run ACL SETUSER and ACL DELUSER: docs/platform-guide.md"
        return Check("Redis", State.failed, f"{settings.url} lets the operator make no users for Jobs", remedy)
    return Check("Redis", State.ok, f"{settings.url} answers and takes users for Jobs")


def report(checks: Iterator[Check], out: TextIO) -> int:
    """Write each check as it is made, with its remedy. Returns the exit status: 1 where one has failed."""
    failed = 0
    for one in checks:
        failed |= one.state is State.failed
        out.write(f"{one.state.value:8} {one.name}: {one.found}\n")
        if one.remedy and one.state is not State.ok:
            out.write(f"{'':8} -> {one.remedy}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(report(run(Kube(load_client(1)), sys.argv[1:], os.environ, datetime.now(UTC)), sys.stdout))
