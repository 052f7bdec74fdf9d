"""``python -m umim.console``: serves the console until SIGTERM."""

from __future__ import annotations

import logging
import os
import sys

import uvicorn

from umim.console.app import Console, create_app
from umim.console.cluster import Cache
from umim.console.prometheus import Prometheus
from umim.console.settings import ConsoleSettings
from umim.console.watching import Watchers, load_client
from umim.errors import UmimError
from umim.telemetry import setup_logging

LOG = logging.getLogger("umim.console")
MOST_CONNECTIONS = 256
"""Connections at a time; more get 503 rather than memory."""
STOP_SECONDS = 5


def main() -> int:
    """Read the settings, follow the cluster, serve."""
    setup_logging("umim-console", sys.stderr)
    try:
        settings = ConsoleSettings.from_env(os.environ)
        cache = Cache()
        watchers = Watchers(load_client(), cache)
    except UmimError as error:
        LOG.error("%s", error)
        return error.exit_code
    prometheus = Prometheus(settings.prometheus_url) if settings.prometheus_url is not None else None
    app = create_app(Console(cache, prometheus), settings.hosts)
    watchers.start()
    LOG.info("serving on port %d to %s", settings.port, ", ".join(settings.hosts))
    uvicorn.run(
        app,
        host="0.0.0.0",
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=16 * 1024,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
