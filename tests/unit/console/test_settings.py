"""Settings from the environment."""

from __future__ import annotations

import pytest

from umim.console.settings import ConsoleSettings
from umim.errors import ConfigError


def test_without_variables_it_answers_to_this_host_alone_and_asks_no_prometheus() -> None:
    found = ConsoleSettings.from_env({})
    assert (found.hosts, found.port, found.prometheus_url) == (("localhost", "127.0.0.1"), 8080, None)


def test_names_ports_and_prometheus_are_read() -> None:
    found = ConsoleSettings.from_env(
        {
            "UMIM_CONSOLE_HOSTS": "umim-console, console.example.org,",
            "UMIM_CONSOLE_PORT": "9000",
            "UMIM_CONSOLE_PROMETHEUS_URL": "http://prometheus.observability.svc:9090/",
        }
    )
    assert found.hosts[2:] == ("umim-console", "console.example.org")
    assert (found.port, found.prometheus_url) == (9000, "http://prometheus.observability.svc:9090")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UMIM_CONSOLE_HOSTS", "https://console.example.org"),
        ("UMIM_CONSOLE_HOSTS", "*"),
        ("UMIM_CONSOLE_HOSTS", "a b"),
        ("UMIM_CONSOLE_PORT", "0"),
        ("UMIM_CONSOLE_PORT", "65536"),
        ("UMIM_CONSOLE_PORT", "99999999999"),
        ("UMIM_CONSOLE_PORT", "http"),
        ("UMIM_CONSOLE_PORT", "²"),
        ("UMIM_CONSOLE_PROMETHEUS_URL", "prometheus:9090"),
        ("UMIM_CONSOLE_PROMETHEUS_URL", "http://prometheus:9090?x=1"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ConsoleSettings.from_env({name: value})


def test_credentials_in_the_url_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        ConsoleSettings.from_env({"UMIM_CONSOLE_PROMETHEUS_URL": "http://user:secret@prometheus:9090"})
    assert "secret" not in str(caught.value)
