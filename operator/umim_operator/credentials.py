"""Credentials of one Job: minted for it, limited to what it touches, short-lived."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import minio
import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AssumeRoleProvider

from umim import contract
from umim.api.jobs import AggregateJobConfig, InitJobConfig, JobConfig, SiteJobConfig
from umim.artifacts import policies
from umim.artifacts.minio import http_pool, translate
from umim.errors import AccessDeniedError, StoreError
from umim.progress import ProgressReader
from umim.settings import StoreSettings

LONGEST = timedelta(days=7)
"""STS refuses longer lifetimes."""


def policy(bucket: str, config: JobConfig) -> policies.Policy:
    """Return the session policy of a Job."""
    if isinstance(config, SiteJobConfig):
        return policies.site_policy(bucket, config.round_uid, config.site, config.attempt, config.parent)
    if isinstance(config, AggregateJobConfig):
        return policies.aggregate_policy(bucket, config.round_uid, config.parent)
    if isinstance(config, InitJobConfig):
        return policies.init_policy(bucket, config.round_uid)
    raise TypeError(f"no policy for {type(config).__name__}")


def source(config: JobConfig) -> str:
    """Return as what a Job reports its progress: its site, or its role at the server."""
    if isinstance(config, SiteJobConfig):
        return config.site
    if isinstance(config, InitJobConfig | AggregateJobConfig):
        return config.kind.lower()
    raise TypeError(f"{type(config).__name__} reports no progress")


def expiring(document: policies.Policy, end: datetime) -> policies.Policy:
    """Return the policy with an end: every permission lapses at that time, sooner than STS can be asked for."""
    condition = {"DateLessThan": {"aws:CurrentTime": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    statements = [
        {**statement, "Condition": {**statement.get("Condition", {}), **condition}}
        for statement in document["Statement"]
    ]
    return {**document, "Statement": statements}


def assume_role(
    store: StoreSettings, document: policies.Policy, lifetime: timedelta, pool: urllib3.PoolManager | None = None
) -> Credentials:
    """Return temporary credentials of the store that may do what the policy says. ``pool``: connections to go on with.

    Raises AccessDeniedError when STS refuses, StoreError when it does not answer.
    """
    provider = AssumeRoleProvider(
        sts_endpoint=store.endpoint,
        access_key=store.credentials.access_key,
        secret_key=store.credentials.secret_key.get_secret_value(),
        policy=json.dumps(document, separators=(",", ":")),
        duration_seconds=int(min(lifetime, LONGEST).total_seconds()),
        region=store.region,
        http_client=pool or http_pool(store),
    )
    try:
        return provider.retrieve()
    except ValueError as error:  # the client's way to say that STS refused, or failed
        raise _not_minted(error) from error
    except (minio.error.MinioException, urllib3.exceptions.HTTPError) as error:
        raise translate(error, f"minting credentials at {store.endpoint}") from error


def _not_minted(error: ValueError) -> StoreError:
    """Return what an answer of STS means: only its text has the status. A full disk, for one, is a 500."""
    text = f"the store mints no credentials: {error}"
    return StoreError(text) if re.search(r"status code 5\d\d$", str(error)) else AccessDeniedError(text)


class Mint:
    """Makes the credentials of Jobs: S3 by STS AssumeRole, Redis by an ACL user for one stream."""

    def __init__(self, store: StoreSettings, progress: ProgressReader | None) -> None:
        self._store = store
        self._progress = progress
        self._pool = http_pool(store)

    def issue(self, config: JobConfig, end: datetime, lifetime: timedelta) -> dict[str, str]:
        """Return environment variables with credentials for the Job; they end at that time.

        Without Redis, or with Redis down, the Job gets none for it and reports no live progress.
        Raises StoreError when the store does not mint.
        """
        return {**self._s3(config, end, lifetime), **self._redis(config)}

    def revoke(self, uid: str, source: str, attempt: int) -> None:
        """End the Redis credentials of an attempt of a site or of a server's role. S3 credentials end by themselves."""
        if self._progress is not None:
            self._progress.drop_user(uid, source, attempt)

    def _s3(self, config: JobConfig, end: datetime, lifetime: timedelta) -> dict[str, str]:
        found = assume_role(self._store, expiring(policy(self._store.bucket, config), end), lifetime, self._pool)
        return {
            contract.ENV_S3_ACCESS_KEY: found.access_key,
            contract.ENV_S3_SECRET_KEY: found.secret_key,
            contract.ENV_S3_SESSION_TOKEN: found.session_token or "",
        }

    def _redis(self, config: JobConfig) -> dict[str, str]:
        if self._progress is None:
            return {}
        found = self._progress.mint_user(config.round_uid, source(config), config.attempt)
        if found is None:
            return {}
        return {contract.ENV_REDIS_USERNAME: found.username, contract.ENV_REDIS_PASSWORD: found.password}
