"""A plain client of the API server that can watch, for the test kubelet and for the end of rounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

Object = dict[str, Any]
CONNECTIONS = 8
TRIES = 5
JSON = "application/json"
MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Client:
    """Sends requests as one user."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._host = settings.host
        self._token = str(settings.get_api_key_with_prefix("BearerToken"))
        self._pool = urllib3.PoolManager(ca_certs=settings.ssl_ca_cert, maxsize=CONNECTIONS, retries=TRIES)

    def request(self, method: str, path: str, body: Object | None = None, accept: str = JSON) -> tuple[int, Object]:
        """Return status and answer of a request."""
        data = None if body is None else json.dumps(body)
        answer = self._pool.request(method, self._host + path, headers=self._headers(accept), body=data)
        return answer.status, json.loads(answer.data)

    def watch(self, path: str, query: str = "", accept: str = JSON) -> Iterator[Object]:
        """Return the list, and then the objects of all events, for ever. After a break it begins anew."""
        while True:
            status, listed = self.request("GET", f"{path}?{query}", accept=accept)
            if status != 200:
                raise RuntimeError(f"{path}: {status} {listed.get('message')}")
            yield from [listed] if listed["kind"] == "Table" else listed["items"]
            url = f"{self._host}{path}?{query}&watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
            timeout = urllib3.Timeout(connect=5, read=600)
            with suppress(urllib3.exceptions.HTTPError):
                stream = self._pool.request(
                    "GET", url, headers=self._headers(accept), preload_content=False, timeout=timeout
                )
                for line in _lines(stream):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    yield event["object"]

    def _headers(self, accept: str) -> dict[str, str]:
        return {"Authorization": self._token, "Content-Type": MERGE, "Accept": accept}


def _lines(stream: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while piece := stream.read1():
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
