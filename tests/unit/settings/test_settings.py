"""Settings are read from the environment given, and every mistake names its variable."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.authority import Authority
from umim import contract
from umim.api.jobs import AggregateJobConfig
from umim.errors import ConfigError
from umim.settings import RedisSettings, StoreSettings, StoreSetupSettings, TelemetrySettings, job_config

STORE = {
    "UMIM_S3_ENDPOINT": "https://store.example:9000/",
    "UMIM_S3_BUCKET": "umim",
    "UMIM_S3_ACCESS_KEY": "key",
    "UMIM_S3_SECRET_KEY": "very-secret",
}
CONFIG: dict[str, Any] = {
    "roundNamespace": "federation",
    "roundName": "stage-1",
    "roundUid": "u",
    "attempt": 1,
    "architecture": "vit_tiny_patch16_224",
    "imageSize": 64,
    "parent": {"name": "base", "digest": "a" * 64},
    "aggregation": {"strategy": "fedavg"},
    "updates": [{"site": "a.x", "attempt": 1, "digest": "b" * 64}],
    "quorum": 1,
    "seed": 0,
    "workPath": "/work",
}


def test_store_settings_are_read() -> None:
    settings = StoreSettings.from_env(STORE)
    assert (settings.host, settings.secure, settings.bucket) == ("store.example:9000", True, "umim")
    assert settings.region == "us-east-1"
    assert settings.credentials.session_token is None
    assert settings.credentials.secret_key.get_secret_value() == "very-secret"


def test_secrets_are_not_shown() -> None:
    settings = StoreSettings.from_env({**STORE, "UMIM_S3_SESSION_TOKEN": "token-secret"})
    assert "secret" not in repr(settings).replace("secret_key", "").replace("Secret", "")


@pytest.mark.parametrize("name", sorted(STORE))
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_store_variable_is_named(name: str, value: str | None) -> None:
    env = {key: text for key, text in STORE.items() if key != name} | ({name: value} if value is not None else {})
    with pytest.raises(ConfigError, match=rf"{name} must be set"):
        StoreSettings.from_env(env)


@pytest.mark.parametrize(
    "url",
    ["store:9000", "ftp://store", "http://", "http://store:0", "http://store:99999", "http://store:x", "http://s?q=1"],
)
def test_a_malformed_endpoint_is_named_with_its_value(url: str) -> None:
    with pytest.raises(ConfigError, match=r"UMIM_S3_ENDPOINT=.*http"):
        StoreSettings.from_env({**STORE, "UMIM_S3_ENDPOINT": url})


def test_an_endpoint_with_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="UMIM_S3_ENDPOINT='http://store/minio' must have no path"):
        StoreSettings.from_env({**STORE, "UMIM_S3_ENDPOINT": "http://store/minio"})


def test_credentials_in_an_endpoint_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="UMIM_S3_ENDPOINT") as caught:
        StoreSettings.from_env({**STORE, "UMIM_S3_ENDPOINT": "http://user:hidden@store"})
    assert "user:hidden" not in str(caught.value)


def test_set_up_needs_an_administrator() -> None:
    with pytest.raises(ConfigError, match="UMIM_S3_ADMIN_USER must be set"):
        StoreSetupSettings.from_env(STORE)
    settings = StoreSetupSettings.from_env({**STORE, "UMIM_S3_ADMIN_USER": "root", "UMIM_S3_ADMIN_PASSWORD": "pw"})
    assert settings.admin.access_key == "root"


def test_redis_is_optional() -> None:
    assert RedisSettings.from_env({}) is None
    settings = RedisSettings.from_env({"UMIM_REDIS_URL": "redis://r:6379/1", "UMIM_REDIS_PASSWORD": "pw"})
    assert settings is not None
    assert (settings.url, settings.username) == ("redis://r:6379/1", None)


@pytest.mark.parametrize("url", ["r:6379", "http://r", "redis://", "redis://user:pw@r", "redis://r:x"])
def test_a_malformed_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="UMIM_REDIS_URL"):
        RedisSettings.from_env({"UMIM_REDIS_URL": url})


@pytest.mark.parametrize("name", ["UMIM_S3_CA", "UMIM_REDIS_CA"])
def test_a_ca_is_read_and_what_is_none_is_refused_by_name(name: str) -> None:
    ca = Authority("ours").pem
    env = {**STORE, "UMIM_REDIS_URL": "rediss://r"}
    assert {StoreSettings.from_env(env).ca, *(one.ca for one in [RedisSettings.from_env(env)] if one)} == {None}
    found = StoreSettings.from_env({**env, name: ca}), RedisSettings.from_env({**env, name: ca})
    assert [one.ca for one in found if one is not None and one.ca] == [ca]
    with pytest.raises(ConfigError, match=f"{name} holds no certificates"):
        (StoreSettings.from_env({**env, name: "x"}), RedisSettings.from_env({**env, name: "x"}))


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=false", "ssl_ca_certs=/work/ca.pem"])
def test_no_url_can_turn_verification_off(option: str) -> None:
    with pytest.raises(ConfigError, match="UMIM_REDIS_URL"):
        RedisSettings.from_env({"UMIM_REDIS_URL": f"rediss://r:6379/0?{option}"})


def test_telemetry_is_off_without_an_endpoint() -> None:
    assert TelemetrySettings.from_env({}) == TelemetrySettings()
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/", "TRACEPARENT": "00-1-2-3"}
    assert TelemetrySettings.from_env(env) == TelemetrySettings(
        endpoint="http://collector:4318", traceparent="00-1-2-3"
    )


def test_a_malformed_telemetry_endpoint_is_named() -> None:
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318'"):
        TelemetrySettings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})


def test_a_job_configuration_is_read() -> None:
    config = job_config({contract.ENV_CONFIG: json.dumps(CONFIG)}, AggregateJobConfig)
    assert config.updates[0].site == "a.x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quorum": 0}, "UMIM_CONFIG: quorum: .*greater than or equal to 1"),
        ({"parent": {"name": "base", "digest": "x"}}, "UMIM_CONFIG: parent.digest: "),
        ({"updates": []}, "UMIM_CONFIG: updates: "),
        ({"colour": "red"}, "UMIM_CONFIG: colour: Extra inputs"),
        ({"quorum": 0, "attempt": 0}, r"\(and 1 more\)"),
    ],
)
def test_a_bad_job_configuration_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job_config({contract.ENV_CONFIG: json.dumps(CONFIG | change)}, AggregateJobConfig)


def test_a_job_configuration_that_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="UMIM_CONFIG: document: Invalid JSON"):
        job_config({contract.ENV_CONFIG: "{"}, AggregateJobConfig)


def test_a_configuration_of_a_thousand_sites_fits_into_variables_with_which_linux_starts_a_program() -> None:
    updates = [
        {"site": f"hospital-{number:04d}.radiology", "attempt": 1, "digest": "d" * 64, "headDigest": "e" * 64}
        | {"publicKey": "nQBDEM4gQ3dcqW2cQ5WmFv6cA9pV1Cz0J0kqS3v0m1w="}
        for number in range(1000)
    ]
    text = json.dumps(CONFIG | {"updates": updates})
    variables = contract.config_variables(text)
    assert list(variables)[:2] == ["UMIM_CONFIG", "UMIM_CONFIG_2"]
    assert len(text) > 128 << 10, "it would not fit into one"
    subprocess.run(["/bin/true"], env=variables, check=True)
    assert len(job_config(variables, AggregateJobConfig).updates) == 1000


@pytest.mark.parametrize("text", ["", "{}", "x" * 30_000, "x" * 30_001, "é" * 90_000])
def test_a_configuration_is_put_together_as_it_was_cut(text: str) -> None:
    variables = contract.config_variables(text)
    assert contract.config_text(variables) == text
    assert all(len(value.encode()) < 128 << 10 for value in variables.values())
