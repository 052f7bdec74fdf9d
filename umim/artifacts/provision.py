"""Sets up a MinIO server for a federation: bucket, policy, and the operator's user."""

from __future__ import annotations

import http
import logging

import tenacity
import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException, S3Error

from umim.artifacts.minio import PassingStoreError, http_pool, s3_client, translate
from umim.artifacts.policies import operator_policy
from umim.errors import AccessDeniedError, ConfigError, StoreError, UmimError
from umim.settings import StoreSettings, StoreSetupSettings

POLICY_NAME = "umim-operator"
WAIT_SECONDS = 2.0

_log = logging.getLogger(__name__)


def provision(settings: StoreSetupSettings, patience_seconds: float) -> None:
    """Create bucket, policy and operator user where they are missing, and bring them up to date.

    Running it again does no harm. Waits up to ``patience_seconds`` for the server. Raises ConfigError when the server
    refuses a name or secret, AccessDeniedError for wrong administrator credentials, StoreError when it stays silent.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(PassingStoreError),
        stop=tenacity.stop_before_delay(patience_seconds),
        wait=tenacity.wait_fixed(WAIT_SECONDS),
        before_sleep=_report,
        reraise=True,
    )
    retrying(_provision_once, settings)
    _log.info("bucket %s and user %s are ready", settings.store.bucket, settings.store.credentials.access_key)


def _provision_once(settings: StoreSetupSettings) -> None:
    pool = http_pool(settings.store)
    try:
        _make_bucket(settings, pool)
        _make_operator(settings, pool)
    except MinioAdminException as error:
        raise _translate_admin(error, settings.store) from error
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise translate(error, f"set-up of bucket {settings.store.bucket} at {settings.store.endpoint}") from error


def _make_bucket(settings: StoreSetupSettings, pool: urllib3.PoolManager) -> None:
    client = s3_client(settings.store, settings.admin, pool)
    if client.bucket_exists(settings.store.bucket):
        return
    try:
        client.make_bucket(settings.store.bucket)
    except S3Error as error:
        if error.code != "BucketAlreadyOwnedByYou":  # made by another set-up a moment ago
            raise


def _make_operator(settings: StoreSetupSettings, pool: urllib3.PoolManager) -> None:
    admin = MinioAdmin(
        endpoint=settings.store.host,
        credentials=StaticProvider(settings.admin.access_key, settings.admin.secret_key.get_secret_value()),
        region=settings.store.region,
        secure=settings.store.secure,
        http_client=pool,
    )
    operator = settings.store.credentials
    admin.policy_add(POLICY_NAME, policy=operator_policy(settings.store.bucket))
    admin.user_add(operator.access_key, operator.secret_key.get_secret_value())
    admin.policy_set(POLICY_NAME, user=operator.access_key)


def _translate_admin(error: MinioAdminException, store: StoreSettings) -> UmimError:
    code, text = int(error._code), str(error)
    if code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return AccessDeniedError(f"the administrator credentials are not accepted by {store.endpoint}: {text}")
    if code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return PassingStoreError(f"{store.endpoint} cannot be set up for now: {text}")
    if code == http.HTTPStatus.BAD_REQUEST:
        return ConfigError(f"{store.endpoint} refuses the operator's access key or secret: {text}")
    return StoreError(f"{store.endpoint} cannot be set up: {text}")


def _report(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.info("waiting for the object store, %d s so far: %s", state.seconds_since_start or 0, error)
