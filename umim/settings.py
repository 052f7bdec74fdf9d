"""Settings of a process, read once from an environment that the caller passes in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from umim import contract, tls
from umim.api.base import ApiModel, shortened
from umim.errors import ConfigError

DEFAULT_REGION = "us-east-1"
ENV_OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ENV_S3_ADMIN_USER = "UMIM_S3_ADMIN_USER"
ENV_S3_ADMIN_PASSWORD = "UMIM_S3_ADMIN_PASSWORD"
MOST_FIELD_CHARACTERS = 300
"""Length at which the path of a field is cut: the names of tensors are part of it."""

ConfigT = TypeVar("ConfigT", bound=ApiModel)


class Settings(BaseModel):
    """Base of settings: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class S3Credentials(Settings):
    """An S3 key pair, with the token that makes it a temporary one."""

    access_key: str
    """Access key id."""
    secret_key: SecretStr
    """Secret access key."""
    session_token: SecretStr | None = None
    """Session token of credentials that STS minted."""


class StoreSettings(Settings):
    """Where the object store is and who asks."""

    endpoint: str
    """URL http(s)://host[:port] of the S3 API."""
    bucket: str
    """Bucket that holds everything."""
    region: str = DEFAULT_REGION
    """Region that requests are signed for."""
    credentials: S3Credentials
    """Who asks."""
    ca: str | None = None
    """PEM certificates of the authorities that may sign the server's. Default: the system's authorities."""
    server_name: str | None = None
    """Name that the server's certificate must hold. Default: that of the endpoint."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> StoreSettings:
        """Read UMIM_S3_*. Raises ConfigError naming the variable that is missing or has another form."""
        token = env.get(contract.ENV_S3_SESSION_TOKEN)
        return cls(
            endpoint=_s3_endpoint(env),
            bucket=require(env, contract.ENV_S3_BUCKET),
            region=env.get(contract.ENV_S3_REGION) or DEFAULT_REGION,
            credentials=S3Credentials(
                access_key=require(env, contract.ENV_S3_ACCESS_KEY),
                secret_key=SecretStr(require(env, contract.ENV_S3_SECRET_KEY)),
                session_token=SecretStr(token) if token else None,
            ),
            ca=tls.checked_bundle(contract.ENV_S3_CA, env.get(contract.ENV_S3_CA)),
        )

    @property
    def host(self) -> str:
        """Host and port of the endpoint, as the S3 client wants it."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return urlsplit(self.endpoint).scheme == "https"


class StoreSetupSettings(Settings):
    """What ``umim.entrypoints.store_setup`` needs: the store with the operator's keys, and an administrator."""

    store: StoreSettings
    """The store as the operator will use it."""
    admin: S3Credentials
    """Root or administrator credentials of the MinIO server."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> StoreSetupSettings:
        """Read UMIM_S3_* and UMIM_S3_ADMIN_USER, UMIM_S3_ADMIN_PASSWORD. Raises ConfigError naming the variable."""
        admin = S3Credentials(
            access_key=require(env, ENV_S3_ADMIN_USER), secret_key=SecretStr(require(env, ENV_S3_ADMIN_PASSWORD))
        )
        return cls(store=StoreSettings.from_env(env), admin=admin)


class RedisSettings(Settings):
    """Where live progress goes."""

    url: str
    """URL redis(s)://host[:port][/database], without credentials."""
    username: str | None = None
    """ACL user. Default: the default user."""
    password: SecretStr | None = None
    """Password of the user."""
    ca: str | None = None
    """As of ``StoreSettings``."""
    server_name: str | None = None
    """As of ``StoreSettings``."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> RedisSettings | None:
        """Read UMIM_REDIS_*. Returns None when UMIM_REDIS_URL is unset: progress is optional.

        Raises ConfigError when the URL has another form or carries credentials.
        """
        url = env.get(contract.ENV_REDIS_URL)
        if not url:
            return None
        if not _is_url(url, ("redis", "rediss")):
            raise ConfigError(
                f"{contract.ENV_REDIS_URL} must be redis(s)://host[:port][/database] without credentials "
                f"(they belong in {contract.ENV_REDIS_USERNAME} and {contract.ENV_REDIS_PASSWORD})"
            )
        password = env.get(contract.ENV_REDIS_PASSWORD)
        return cls(
            url=url,
            username=env.get(contract.ENV_REDIS_USERNAME) or None,
            password=SecretStr(password) if password else None,
            ca=tls.checked_bundle(contract.ENV_REDIS_CA, env.get(contract.ENV_REDIS_CA)),
        )

    @property
    def secure(self) -> bool:
        """Whether the URL speaks TLS."""
        return urlsplit(self.url).scheme == "rediss"


class TelemetrySettings(Settings):
    """Where traces and metrics go, and the span that this process continues."""

    endpoint: str | None = None
    """Base URL of an OTLP/HTTP receiver; /v1/traces and /v1/metrics are appended. None: telemetry is off."""
    traceparent: str | None = None
    """W3C trace context of the parent span."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> TelemetrySettings:
        """Read OTEL_EXPORTER_OTLP_ENDPOINT and TRACEPARENT. Raises ConfigError when the URL has another form."""
        endpoint = http_url(env, ENV_OTLP_ENDPOINT) if env.get(ENV_OTLP_ENDPOINT) else None
        return cls(endpoint=endpoint, traceparent=env.get(contract.ENV_TRACEPARENT) or None)


def require(env: Mapping[str, str], name: str) -> str:
    """Return a variable's value. Raises ConfigError naming the variable when it is unset or empty."""
    value = env.get(name)
    if not value:
        raise ConfigError(f"environment variable {name} must be set and not empty")
    return value


def http_url(env: Mapping[str, str], name: str) -> str:
    """Return a variable that holds http(s)://host[:port][/path], without a trailing slash.

    Raises ConfigError naming the variable and its value.
    """
    value = require(env, name).rstrip("/")
    if not _is_url(value, ("http", "https")):
        shown = "(hidden, it holds credentials)" if "@" in value else repr(value)
        raise ConfigError(f"{name}={shown} must be a URL of the form http(s)://host[:port], without credentials")
    return value


def _s3_endpoint(env: Mapping[str, str]) -> str:
    value = http_url(env, contract.ENV_S3_ENDPOINT)
    if urlsplit(value).path:
        raise ConfigError(f"{contract.ENV_S3_ENDPOINT}={value!r} must have no path: the S3 API is at the root")
    return value


def _is_url(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    return parts.scheme in schemes and bool(parts.hostname) and port_is_valid and plain


def job_config(env: Mapping[str, str], model: type[ConfigT]) -> ConfigT:
    """Parse the Job's configuration from UMIM_CONFIG. Raises ConfigError naming the field."""
    require(env, contract.ENV_CONFIG)
    try:
        return model.model_validate_json(contract.config_text(env))
    except ValidationError as error:
        raise ConfigError(f"{contract.ENV_CONFIG}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation as ``field: what is wrong``, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{shortened(field, MOST_FIELD_CHARACTERS)}: {shortened(first['msg'])}{more}"
