"""Keeps the cache in line with the API server: one list and then one watch a kind, whatever the number of viewers.

The only part of the console that uses the Kubernetes client. It lists and watches, nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from umim.api.base import GROUP, VERSION
from umim.console.cluster import KINDS, Cache, Kind
from umim.errors import ConfigError

LOG = logging.getLogger(__name__)
CONNECT_SECONDS = 5
LIST_SECONDS = 30
WATCH_SECONDS = 240
"""After this the server ends a watch and a new one goes on: a connection that died unseen is noticed."""
PAUSE_SECONDS = 1.0
"""Between two watches, and after the first failure; then twice as long each time."""
LONGEST_PAUSE_SECONDS = 30.0
PAGE = 200
"""Objects of one answer to a list."""
GONE = 410


def load_client() -> client.ApiClient:
    """Return a client from the Pod's service account, or from KUBECONFIG outside a cluster. Raises ConfigError."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise ConfigError(
                f"no way to the API server ({error}): run in a Pod with a ServiceAccount, or set KUBECONFIG"
            ) from error
    settings = client.Configuration.get_default_copy()
    settings.retries = False
    return client.ApiClient(settings)


class Watcher:
    """Follows one kind in all namespaces until it is stopped."""

    def __init__(
        self, api: client.ApiClient, kind: Kind, cache: Cache, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._list: Any = client.CustomObjectsApi(api).list_cluster_custom_object
        self._kind = kind
        self._cache = cache
        self._now = now
        self._stopped = threading.Event()
        self._watch: watch.Watch | None = None

    def run(self) -> None:
        """List, then watch; start again from the list when the server forgot where the watch was. Never raises."""
        version: str | None = None
        pause = 0.0
        while not self._stopped.wait(pause):
            try:
                if version is None:
                    version = self._read_all()
                version = self._follow(version)
                pause = PAUSE_SECONDS
            except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, ApiException) and error.status == GONE:
                    version, pause = None, PAUSE_SECONDS
                    continue
                message = _in_words(error)
                LOG.warning("%s: %s", self._kind, message)
                self._cache.failed(self._kind, self._now(), message)
                # From the list again: what was missed meanwhile is not known.
                version, pause = None, min(LONGEST_PAUSE_SECONDS, 2 * pause or PAUSE_SECONDS)

    def stop(self) -> None:
        """End the watch, soon."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.stop()

    def _read_all(self) -> str:
        objects: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            more = {"_continue": token} if token else {}
            page = self._list(
                GROUP, VERSION, self._kind, limit=PAGE, _request_timeout=(CONNECT_SECONDS, LIST_SECONDS), **more
            )
            objects += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                break
        self._cache.replace(self._kind, objects)
        self._cache.answered(self._kind)
        return str(page["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> str:
        """Apply what changes, until the server ends the watch; return the version to go on from."""
        self._watch = watch.Watch()
        events = self._watch.stream(
            self._list,
            GROUP,
            VERSION,
            self._kind,
            resource_version=version,
            timeout_seconds=WATCH_SECONDS,
            allow_watch_bookmarks=True,
            _request_timeout=(CONNECT_SECONDS, WATCH_SECONDS + LIST_SECONDS),
        )
        for event in events:
            one = event["raw_object"]
            version = one["metadata"]["resourceVersion"]
            if event["type"] in ("ADDED", "MODIFIED"):
                self._cache.put(self._kind, one)
            elif event["type"] == "DELETED":
                self._cache.remove(self._kind, one)
            if self._stopped.is_set():
                break
        self._cache.answered(self._kind)
        return version


class Watchers:
    """The watchers of all kinds, each in a thread of its own."""

    def __init__(self, api: client.ApiClient, cache: Cache) -> None:
        self._watchers = [Watcher(api, kind, cache) for kind in KINDS]
        self._threads = [
            threading.Thread(target=one.run, name=f"watch-{kind}", daemon=True)
            for kind, one in zip(KINDS, self._watchers, strict=True)
        ]

    def start(self) -> None:
        """Start following."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all watches and wait for them, at most 5 s."""
        for one in self._watchers:
            one.stop()
        for thread in self._threads:
            thread.join(CONNECT_SECONDS)


def _in_words(error: Exception) -> str:
    if isinstance(error, ApiException):
        if error.status in (401, 403):
            return "the API server does not let the console read this: its ServiceAccount needs get, list and watch"
        if error.status == 404:
            return "the API server does not know this kind: install charts/umim"
        return f"the API server answered {error.status} ({error.reason})"
    if isinstance(error, ValueError | KeyError | TypeError):
        return f"what answers is no API server ({type(error).__name__})"
    return f"the API server does not answer ({type(error).__name__})"
