"""The object store on MinIO or another S3 server that knows conditional writes. The only S3 client code."""

from __future__ import annotations

import base64
import hashlib
import http
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from xml.etree import ElementTree

import minio
import tenacity
import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from umim import contract, tls
from umim.artifacts.files import replace_file
from umim.artifacts.store import ObjectInfo, check_key, check_prefix, check_range
from umim.errors import AccessDeniedError, NotFoundError, StoreError, UmimError, UntrustedStoreError
from umim.settings import S3Credentials, StoreSettings

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
PRESIGNED_FOR = timedelta(minutes=5)

MISSING_CODES = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchUpload"})
DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidTokenId",
        "SignatureDoesNotMatch",
        "InvalidClientTokenId",
        "AccountProblem",
    }
)
PASSING_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "ConditionalRequestConflict",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "XMinioServerNotInitialized",
    }
)

T = TypeVar("T")
ByteCounter = Callable[[str, int], None]
"""Told a direction, ``in`` or ``out``, and a number of bytes."""


class PassingStoreError(StoreError):
    """The store does not answer now or is overloaded: worth another try within the same process."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long passing errors are tried again: exponential backoff with full jitter."""

    attempts: int = 7
    """Tries in all, at least 1."""
    first_wait_seconds: float = 0.5
    """Upper bound of the wait after the first failure; doubles from there. The wait is uniform below it."""
    longest_wait_seconds: float = 10.0
    """Upper bound of one wait."""


class MinioStore:
    """One bucket of an S3 server, see ``ObjectStore``. Safe to use from several threads."""

    def __init__(self, settings: StoreSettings, retry: RetryPolicy, count: ByteCounter) -> None:
        self._http = http_pool(settings)
        self._client = s3_client(settings, settings.credentials, self._http)
        self._bucket = settings.bucket
        self._retry = retry
        self._count = count

    @classmethod
    def from_settings(
        cls, settings: StoreSettings, retry: RetryPolicy | None = None, count: ByteCounter | None = None
    ) -> MinioStore:
        """Return a store that signs with the settings' credentials. Connects to nothing yet.

        ``count`` is told how many bytes of objects moved ``in`` or ``out``.
        """
        return cls(settings, retry or RetryPolicy(), count or _count_nothing)

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        return self._call(f"read of {check_key(key)}", lambda: self._read(key, 0, 0))

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write the whole object at once, see ``ObjectStore.put``."""
        check_key(key)
        if if_absent:
            return self._call(f"conditional write of {key}", lambda: self._put_if_absent(key, data))
        self._call(f"write of {key}", lambda: self._put(key, io.BytesIO(data), len(data)))
        return True

    def stat(self, key: str) -> ObjectInfo | None:
        """Return what the store knows of an object, or None where there is none."""
        check_key(key)
        try:
            found = self._call(f"stat of {key}", lambda: self._client.stat_object(self._bucket, key))
        except NotFoundError:
            return None
        return ObjectInfo(key=key, size_bytes=found.size or 0, etag=found.etag or "")

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects under the prefix, sorted by key."""

        def page_through() -> list[ObjectInfo]:
            found = self._client.list_objects(self._bucket, prefix=prefix, recursive=True)
            return [ObjectInfo(item.object_name or "", item.size or 0, item.etag or "") for item in found]

        return sorted(self._call(f"listing of {prefix}", page_through), key=lambda item: item.key)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return at most ``length`` bytes from ``offset``."""
        check_key(key)
        check_range(offset, length)
        return self._call(f"read of {key}", lambda: self._read(key, offset, length))

    def download(self, key: str, path: Path) -> str:
        """Write the object to a file and return its sha256, computed while the bytes pass."""
        return self._call(f"download of {check_key(key)}", lambda: self._download(key, path))

    def upload(self, path: Path, key: str) -> str:
        """Write a file's content to the object, in parts when it is large, and return its sha256."""
        check_key(key)

        def send() -> str:
            with path.open("rb") as file:
                reader = _HashingReader(file)
                self._put(key, cast(BinaryIO, reader), path.stat().st_size)
                return reader.hexdigest()

        return self._call(f"upload of {key}", send)

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""
        self._call(f"deletion of {check_key(key)}", lambda: self._client.remove_object(self._bucket, key))

    def delete_prefix(self, prefix: str) -> int:
        """Remove all objects under the prefix; return how many."""
        found = self.list(check_prefix(prefix))
        # One request an object: a round holds few, and the batch request needs one more permission.
        for item in found:
            self.delete(item.key)
        return len(found)

    def _call(self, what: str, operation: Callable[[], T]) -> T:
        """Run an operation, translate its errors and try again after passing ones."""

        def attempt() -> T:
            try:
                return operation()
            except (MinioException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
                raise translate(error, f"{what} in bucket {self._bucket}") from error

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingStoreError),
            stop=tenacity.stop_after_attempt(self._retry.attempts),
            wait=tenacity.wait_random_exponential(
                multiplier=self._retry.first_wait_seconds, max=self._retry.longest_wait_seconds
            ),
            reraise=True,
        )
        return retrying(attempt)

    def _read(self, key: str, offset: int, length: int) -> bytes:
        try:
            response = self._client.get_object(self._bucket, key, offset=offset, length=length)
        except S3Error as error:
            if error.code == "InvalidRange":  # behind the end, of an empty object also at its start
                return b""
            raise
        try:
            data = bytes(response.read())
        finally:
            response.close()
            response.release_conn()
        self._count("in", len(data))
        return data

    def _download(self, key: str, path: Path) -> str:
        digest = hashlib.sha256()
        response = self._client.get_object(self._bucket, key)
        try:
            with replace_file(path) as file:
                for chunk in response.stream(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
                    self._count("in", len(chunk))
        finally:
            response.close()
            response.release_conn()
        return digest.hexdigest()

    def _put(self, key: str, data: BinaryIO, length: int) -> None:
        self._client.put_object(self._bucket, key, data, length, part_size=PART_BYTES)
        self._count("out", length)

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """Write with ``If-None-Match: *``, which the client library's own put does not offer.

        A try whose answer was lost may have written: a second try then says False for this very content.
        Callers treat False as "it is there", so nothing is lost.
        """
        url = self._client.get_presigned_url("PUT", self._bucket, key, expires=PRESIGNED_FOR)
        # S3 asks for MD5 here as a transport checksum, not for security.
        checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        response = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*", "Content-MD5": checksum})
        if response.status in (200, 204):
            self._count("out", len(data))
            return True
        if response.status == http.HTTPStatus.PRECONDITION_FAILED:
            return False
        code = _error_code(response.data)
        raise _by_code(code, response.status, f"conditional write of {key} in bucket {self._bucket}")


class _HashingReader(io.RawIOBase):
    """Passes a file on and hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def s3_client(settings: StoreSettings, credentials: S3Credentials, pool: urllib3.PoolManager) -> minio.Minio:
    """Return the client library's client of the settings' endpoint for the given credentials."""
    token = credentials.session_token
    return minio.Minio(
        settings.host,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
        secure=settings.secure,
        # Without a region the client's first call is GetBucketLocation, which narrow policies deny.
        region=settings.region,
        http_client=pool,
    )


def http_pool(settings: StoreSettings) -> urllib3.PoolManager:
    """Return a connection pool with bounded timeouts and without retries of its own: one layer retries.

    With TLS, certificate and host name are verified.
    """
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS),
        maxsize=10,
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ssl_context=tls.context(settings.ca) if settings.secure else None,
        server_hostname=settings.server_name,
    )


def _count_nothing(direction: str, count: int) -> None:
    """Count no bytes."""


def translate(error: Exception, what: str) -> UmimError:
    """Return the project's error for one of the client library or the connection. ``what`` begins its message."""
    if isinstance(error, S3Error):
        return _by_code(error.code or "", error.response.status, what)
    if isinstance(error, ServerError):
        return _by_code("", error.status_code, what)
    if isinstance(error, InvalidResponseError):
        return StoreError(f"{what} failed: the endpoint does not answer as an S3 server does ({error})")
    if certificate := tls.problem(error, "objectStore", contract.ENV_S3_CA):
        return UntrustedStoreError(f"{what} failed: the store cannot be trusted: {certificate}")
    return PassingStoreError(f"{what} failed: the store does not answer ({error})")


def _by_code(code: str, status: int, what: str) -> UmimError:
    shown = f"{code or 'HTTP'} {status}"
    if code in MISSING_CODES:
        return NotFoundError(f"{what} failed: it does not exist ({shown})")
    if code in DENIED_CODES or status in (401, 403):
        return AccessDeniedError(f"{what} was refused: the credentials do not allow it or have expired ({shown})")
    if code in PASSING_CODES or status >= 500 or status == http.HTTPStatus.TOO_MANY_REQUESTS:
        return PassingStoreError(f"{what} failed for now ({shown})")
    return StoreError(f"{what} failed ({shown})")


def _error_code(body: bytes) -> str:
    """Return the code of an S3 error document, or an empty string when it is none."""
    try:
        return ElementTree.fromstring(body).findtext("Code") or ""
    except ElementTree.ParseError:
        return ""
