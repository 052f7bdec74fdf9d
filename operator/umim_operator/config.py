"""Configuration of the operator process, from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umim import contract
from umim.errors import ConfigError
from umim.settings import RedisSettings, StoreSettings, TelemetrySettings, require

ENV_TRAINER_IMAGE = "UMIM_TRAINER_IMAGE"
ENV_AGGREGATOR_IMAGE = "UMIM_AGGREGATOR_IMAGE"
ENV_PULL_POLICY = "UMIM_IMAGE_PULL_POLICY"
ENV_SERVER_SERVICE_ACCOUNT = "UMIM_SERVER_SERVICE_ACCOUNT"
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True)
class JobDefaults:
    """What every Job gets from the operator's configuration."""

    trainer_image: str
    aggregator_image: str
    pull_policy: str
    server_service_account: str
    environment: Mapping[str, str]
    """Where store, Redis and telemetry are, and the CAs that vouch for them; nothing secret."""


@dataclass(frozen=True)
class OperatorConfig:
    """All that the operator reads from its environment."""

    store: StoreSettings
    redis: RedisSettings | None
    telemetry: TelemetrySettings
    jobs: JobDefaults

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> OperatorConfig:
        """Read the environment. Raises ConfigError naming the variable."""
        policy = env.get(ENV_PULL_POLICY) or "IfNotPresent"
        if policy not in PULL_POLICIES:
            raise ConfigError(f"{ENV_PULL_POLICY}={policy!r} must be one of {', '.join(PULL_POLICIES)}")
        store = StoreSettings.from_env(env)
        redis = RedisSettings.from_env(env)
        telemetry = TelemetrySettings.from_env(env)
        return cls(
            store=store,
            redis=redis,
            telemetry=telemetry,
            jobs=JobDefaults(
                trainer_image=require(env, ENV_TRAINER_IMAGE),
                aggregator_image=require(env, ENV_AGGREGATOR_IMAGE),
                pull_policy=policy,
                server_service_account=env.get(ENV_SERVER_SERVICE_ACCOUNT) or "umim-server",
                environment=_public_environment(store, redis, telemetry),
            ),
        )


def _public_environment(
    store: StoreSettings, redis: RedisSettings | None, telemetry: TelemetrySettings
) -> dict[str, str]:
    found = {
        contract.ENV_S3_ENDPOINT: store.endpoint,
        contract.ENV_S3_BUCKET: store.bucket,
        contract.ENV_S3_REGION: store.region,
    }
    if store.ca is not None:
        found[contract.ENV_S3_CA] = store.ca
    if redis is not None:
        found[contract.ENV_REDIS_URL] = redis.url
        if redis.ca is not None:
            found[contract.ENV_REDIS_CA] = redis.ca
    if telemetry.endpoint is not None:
        found["OTEL_EXPORTER_OTLP_ENDPOINT"] = telemetry.endpoint
    return found
