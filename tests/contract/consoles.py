"""A console that really serves, on a port of this machine, and a real Chromium that looks at it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

STARTS_WITHIN = 10.0


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port as the console's own entrypoint does, and give its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + STARTS_WITHIN
    while not server.started:
        if time.monotonic() > end:
            raise TimeoutError(f"the server has not started within {STARTS_WITHIN:.0f} s")
        time.sleep(0.01)
    try:
        yield f"http://localhost:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
