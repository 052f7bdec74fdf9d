"""Settings of the console. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from umim.errors import ConfigError
from umim.settings import Settings, http_url

ENV_HOSTS = "UMIM_CONSOLE_HOSTS"
ENV_PORT = "UMIM_CONSOLE_PORT"
ENV_PROMETHEUS_URL = "UMIM_CONSOLE_PROMETHEUS_URL"
DEFAULT_PORT = 8080
LOCAL_HOSTS = ("localhost", "127.0.0.1")
"""Names under which ``kubectl port-forward`` and the kubelet's probes reach the console."""
_HOST = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class ConsoleSettings(Settings):
    """What the console needs to know."""

    hosts: tuple[str, ...] = LOCAL_HOSTS
    """Names that a browser may call it by. Any other Host header is refused: it would be a page elsewhere whose name
    was made to lead here (DNS rebinding)."""
    port: int = DEFAULT_PORT
    """TCP port to listen on, on all addresses of the Pod."""
    prometheus_url: str | None = None
    """Base URL of a Prometheus. None: no curves."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> ConsoleSettings:
        """Read UMIM_CONSOLE_*. Raises ConfigError naming the variable and its value."""
        url = http_url(env, ENV_PROMETHEUS_URL) if env.get(ENV_PROMETHEUS_URL) else None
        return cls(hosts=(*LOCAL_HOSTS, *_hosts(env)), port=_port(env), prometheus_url=url)


def _hosts(env: Mapping[str, str]) -> list[str]:
    names = [name for name in (part.strip() for part in env.get(ENV_HOSTS, "").split(",")) if name]
    for name in names:
        if not _HOST.fullmatch(name):
            raise ConfigError(
                f"{ENV_HOSTS}: {name!r} is no host name: write names such as console.example.org, without scheme and "
                "port, with commas between"
            )
    return names


def _port(env: Mapping[str, str]) -> int:
    text = env.get(ENV_PORT) or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536):
        raise ConfigError(f"{ENV_PORT}={text!r} must be a port from 1 to 65535")
    return int(text)
