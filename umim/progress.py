"""Live progress over Redis: Jobs append to a stream, the operator reads the newest entry. The only Redis code.

Progress is for people. With Redis down everything else goes on: a publisher drops reports and a reader says that it
knows nothing. No method raises because Redis does not answer or refuses.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import redis
from pydantic import ValidationError

from umim import contract, tls
from umim.api.round import Progress
from umim.settings import RedisSettings

STREAM_LENGTH = 500
PUBLISH_INTERVAL_SECONDS = 2.0
FIRST_BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 60.0
TIMEOUT_SECONDS = 1.0
FIELD = b"progress"

T = TypeVar("T")
_log = logging.getLogger(__name__)


class ProgressPublisher:
    """A Job's side: appends reports to one stream at a bounded rate, and drops them while Redis fails.

    Blocks for at most two seconds (connect, then answer), and after a failure waits before the next try, from 2 s
    doubling to 60 s. ``clock`` returns seconds and never goes back.
    """

    def __init__(
        self, settings: RedisSettings | None, stream: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = connect(settings) if settings else None
        self._stream = stream
        self._clock = clock
        self._next = clock()
        self._backoff = FIRST_BACKOFF_SECONDS
        self.sent = 0
        """Reports that Redis took."""
        self.dropped = 0
        """Reports that were lost because Redis did not answer or refused."""

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._redis is not None:
            self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, progress: Progress, *, last: bool = False) -> bool:
        """Append a report and return whether Redis took it.

        A report that comes sooner than 2 s after the one before is left out unless it is the ``last`` one.
        """
        now = self._clock()
        failing = self._backoff > FIRST_BACKOFF_SECONDS
        if self._redis is None or (now < self._next and (failing or not last)):
            self.dropped += failing
            return False
        try:
            entry = progress.model_dump_json(by_alias=True)
            self._redis.xadd(self._stream, {FIELD: entry}, maxlen=STREAM_LENGTH, approximate=True)
        except (redis.RedisError, OSError) as error:
            self._failed(error)
            return False
        self.sent += 1
        self._backoff = FIRST_BACKOFF_SECONDS
        self._next = now + PUBLISH_INTERVAL_SECONDS
        return True

    def _failed(self, error: Exception) -> None:
        if self.dropped == 0:
            _log.warning("live progress is off for now: %s", _said(error))
        self.dropped += 1
        self._next = self._clock() + self._backoff
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF_SECONDS)


@dataclass(frozen=True)
class ProgressSnapshot:
    """The newest reports of a round."""

    available: bool
    """Whether Redis answered. False: nothing is known, which is not the same as no progress."""
    by_source: dict[str, Progress] = field(default_factory=dict)
    """The newest readable report of every source (site, or role of a Job of the server) that has one."""


@dataclass(frozen=True)
class ProgressCredentials:
    """A Redis user that can append to one stream and nothing else."""

    username: str
    """ACL user."""
    password: str = field(repr=False)
    """Its password."""


class ProgressReader:
    """The operator's side: reads reports, and makes and removes the users that write them."""

    def __init__(self, settings: RedisSettings) -> None:
        self._redis = connect(settings)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def problem(self) -> str | None:
        """Return why Redis does not serve the operator, or None when it does."""
        try:
            self._redis.ping()
        except (redis.RedisError, OSError) as error:
            return _said(error)
        return None

    def latest(self, uid: str, sources: Sequence[str]) -> ProgressSnapshot:
        """Return the newest report of every source, in one round trip of at most two seconds."""

        def read() -> list[Any]:
            with self._redis.pipeline(transaction=False) as pipeline:
                for source in sources:
                    pipeline.xrevrange(contract.progress_stream(uid, source), count=1)
                return pipeline.execute(raise_on_error=False)

        if not sources:
            return ProgressSnapshot(available=True)
        answers = self._ask("read", read)
        if answers is None:
            return ProgressSnapshot(available=False)
        found = {source: _parse(source, answer) for source, answer in zip(sources, answers, strict=True)}
        return ProgressSnapshot(True, {source: progress for source, progress in found.items() if progress is not None})

    def mint_user(self, uid: str, source: str, attempt: int) -> ProgressCredentials | None:
        """Make the user of one attempt, or give it a new password. Returns None when Redis does not answer."""
        username, password = _username(uid, source, attempt), secrets.token_urlsafe(32)
        stream = contract.progress_stream(uid, source)

        def set_user() -> bool:
            # reset first: a user of the same name keeps no password, key or command from before.
            return bool(
                self._redis.acl_setuser(
                    username,
                    enabled=True,
                    reset=True,
                    passwords=[f"+{password}"],
                    keys=[stream],
                    commands=["+xadd", "+ping"],
                )
            )

        done = self._ask("mint a user", set_user)
        return ProgressCredentials(username, password) if done else None

    def drop_user(self, uid: str, source: str, attempt: int) -> bool:
        """Remove the user of one attempt and cut its connections. Returns False when Redis does not answer."""
        name = _username(uid, source, attempt)
        return self._ask("drop a user", lambda: self._redis.acl_deluser(name)) is not None

    def drop_users(self, uid: str) -> bool:
        """Remove the users of all attempts of a round, known or not. Returns False when Redis does not answer."""

        def drop() -> int:
            found = (name if isinstance(name, str) else name.decode() for name in self._redis.acl_users())
            names = sorted(name for name in found if name.startswith(_user_prefix(uid)))
            return int(self._redis.acl_deluser(*names)) if names else 0

        return self._ask("drop users", drop) is not None

    def delete_streams(self, uid: str) -> bool:
        """Remove all streams of a round. Returns False when Redis does not answer."""

        def delete() -> int:
            streams = sorted(self._redis.scan_iter(match=contract.progress_stream(uid, "*"), count=1000))
            return sum(int(self._redis.unlink(stream)) for stream in streams)

        return self._ask("delete streams", delete) is not None

    def _ask(self, what: str, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except (redis.RedisError, OSError) as error:
            _log.warning("cannot %s in Redis: %s", what, _said(error))
            return None


def _user_prefix(uid: str) -> str:
    return f"umim:{uid}:"


def _username(uid: str, source: str, attempt: int) -> str:
    return f"{_user_prefix(uid)}{source}:{attempt}"


class _VerifiedConnection(redis.SSLConnection):
    """A connection with TLS that trusts what the settings say and nothing else.

    The library's own adds a CA to those of the system, and takes the name to verify from the address.
    """

    def __init__(self, *, context: ssl.SSLContext, server_name: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        self._server_name = server_name

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self._server_name or self.host)


def connect(settings: RedisSettings, **options: Any) -> redis.Redis:
    """Return a client; it connects on first use. Nothing is retried inside: callers ask again by themselves.

    It returns bytes: text that a site made undecodable must not break the answer for the others.
    ``options`` are those of the library.
    """
    if settings.secure:
        options["connection_class"] = _VerifiedConnection
        options |= {"context": tls.context(settings.ca), "server_name": settings.server_name}
    return redis.Redis.from_url(
        settings.url,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        **{"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS, "retry": None, **options},
    )


def _said(error: Exception) -> str:
    """Return what an error of the client says, and what to do where a certificate is refused."""
    refused = tls.problem(error, "redis", contract.ENV_REDIS_CA)
    return str(error) if refused is None else f"Redis cannot be trusted: {refused}"


def _parse(source: str, answer: Any) -> Progress | None:
    """Read the newest entry. What a Job wrote is not trusted: an unreadable entry is as good as none."""
    try:
        if isinstance(answer, Exception):
            raise answer
        return Progress.model_validate_json(answer[0][1][FIELD]) if answer else None
    except (redis.RedisError, ValidationError, LookupError, TypeError) as error:
        _log.warning("progress of %s is unreadable: %s", source, error)
        return None
