"""A local port that leads to a Pod's port, through the Kubernetes API, as ``kubectl port-forward`` does."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

BUFFER_BYTES = 1 << 16


@contextmanager
def forwarded(api: client.ApiClient, namespace: str, pod: str, port: int) -> Iterator[int]:
    """Listen on a free port of the loopback address while the block runs; yields the port."""

    class Bridge(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            _bridge(self.request, api, namespace, pod, port)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Bridge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def _bridge(near: socket.socket, api: client.ApiClient, namespace: str, pod: str, port: int) -> None:
    """Carry bytes both ways until one side closes. A refused forward closes: the caller sees a lost connection."""
    # portforward replaces the request function of the client that it is given, so it gets one of its own.
    core = client.CoreV1Api(client.ApiClient(api.configuration))
    try:
        tunnel = portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
    except ApiException:
        return
    far = tunnel.socket(port)
    try:
        upward = threading.Thread(target=_pump, args=(near, far), daemon=True)
        upward.start()
        _pump(far, near)
    finally:
        far.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(BUFFER_BYTES):
            sink.sendall(data)
    except OSError:  # the other side is gone; so is this direction
        return
