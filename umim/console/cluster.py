"""What the console knows of the cluster: kept by the watchers, read by the pages. No network here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

from umim.cli.resources import (
    Federation,
    Hospital,
    Model,
    Round,
    parse_federation,
    parse_hospital,
    parse_model,
    parse_round,
    without_bookkeeping,
)
from umim.errors import ConfigError

Kind = Literal["federationrounds", "federations", "globalmodels", "hospitals"]
Object = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
Resource = Round | Federation | Model | Hospital
ResourceT = TypeVar("ResourceT", Round, Federation, Model, Hospital)

_PARSERS: Mapping[Kind, Callable[[Object], Resource]] = {
    "federationrounds": parse_round,
    "federations": parse_federation,
    "globalmodels": parse_model,
    "hospitals": parse_hospital,
}
KINDS: tuple[Kind, ...] = tuple(_PARSERS)


@dataclass(frozen=True)
class Unreadable:
    """A resource that this console does not understand: of another version."""

    kind: Kind
    namespace: str
    name: str
    message: str


@dataclass(frozen=True)
class Snapshot:
    """The resources of the cluster at one moment, each kind sorted by namespace and name."""

    rounds: tuple[Round, ...] = ()
    federations: tuple[Federation, ...] = ()
    models: tuple[Model, ...] = ()
    hospitals: tuple[Hospital, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    unread: tuple[Kind, ...] = ()
    """Kinds that were never read: the console has just started, or may not read them."""
    stale_since: datetime | None = None
    """Since when the API server does not answer. None: it does."""
    problem: str = ""
    """What the API server, or the connection, said last. Empty with stale_since None."""

    def round(self, namespace: str, name: str) -> Round | None:
        """Return a round, or None."""
        return self._rounds.get((namespace, name))

    def federation(self, namespace: str, name: str) -> Federation | None:
        """Return a campaign, or None."""
        return self._federations.get((namespace, name))

    def model(self, namespace: str, name: str) -> Model | None:
        """Return a model, or None."""
        return self._models.get((namespace, name))

    def hospital(self, namespace: str, name: str) -> Hospital | None:
        """Return a hospital, or None."""
        return self._hospitals.get((namespace, name))

    # Made once, when first asked: the page of a campaign looks up hundreds of models.
    @cached_property
    def _rounds(self) -> dict[Key, Round]:
        return _by_key(self.rounds)

    @cached_property
    def _federations(self) -> dict[Key, Federation]:
        return _by_key(self.federations)

    @cached_property
    def _models(self) -> dict[Key, Model]:
        return _by_key(self.models)

    @cached_property
    def _hospitals(self) -> dict[Key, Hospital]:
        return _by_key(self.hospitals)


class Cache:
    """The newest state of every resource. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Kind, dict[Key, Resource | Unreadable]] = {}
        self._troubles: dict[Kind, tuple[datetime, str]] = {}
        self._snapshot: Snapshot | None = None

    def replace(self, kind: Kind, objects: Iterable[Object]) -> None:
        """Take a whole list in place of what was known of a kind."""
        found = [_parsed(kind, one) for one in objects]
        with self._lock:
            self._kept[kind] = {(one.namespace, one.name): one for one in found}
            self._snapshot = None

    def put(self, kind: Kind, one: Object) -> None:
        """Take one object that was added or changed."""
        parsed = _parsed(kind, one)
        with self._lock:
            self._kept.setdefault(kind, {})[(parsed.namespace, parsed.name)] = parsed
            self._snapshot = None

    def remove(self, kind: Kind, one: Object) -> None:
        """Forget an object that was deleted."""
        with self._lock:
            self._kept.get(kind, {}).pop((one["metadata"]["namespace"], one["metadata"]["name"]), None)
            self._snapshot = None

    def answered(self, kind: Kind) -> None:
        """Note that the API server answers for a kind."""
        with self._lock:
            if self._troubles.pop(kind, None) is not None:
                self._snapshot = None

    def failed(self, kind: Kind, now: datetime, message: str) -> None:
        """Note that the API server does not answer for a kind; the time of the first failure in a row counts."""
        with self._lock:
            since = self._troubles.get(kind, (now, ""))[0]
            self._troubles[kind] = (since, message)
            self._snapshot = None

    @property
    def complete(self) -> bool:
        """Whether every kind was read at least once."""
        with self._lock:
            return len(self._kept) == len(KINDS)

    def snapshot(self) -> Snapshot:
        """Return all that is known now. The same object until something changes: many viewers share it."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = self._take()
            return self._snapshot

    def _take(self) -> Snapshot:
        everything = [one for kind in KINDS for _, one in sorted(self._kept.get(kind, {}).items())]
        oldest = min(self._troubles.values(), default=None)
        return Snapshot(
            rounds=tuple(one for one in everything if isinstance(one, Round)),
            federations=tuple(one for one in everything if isinstance(one, Federation)),
            models=tuple(one for one in everything if isinstance(one, Model)),
            hospitals=tuple(one for one in everything if isinstance(one, Hospital)),
            unreadable=tuple(one for one in everything if isinstance(one, Unreadable)),
            unread=tuple(kind for kind in KINDS if kind not in self._kept),
            stale_since=oldest[0] if oldest else None,
            problem=oldest[1] if oldest else "",
        )


def _parsed(kind: Kind, one: Object) -> Resource | Unreadable:
    try:
        return _PARSERS[kind](without_bookkeeping(one))
    except ConfigError as error:
        return Unreadable(kind, one["metadata"]["namespace"], one["metadata"]["name"], str(error))


def _by_key(resources: Iterable[ResourceT]) -> dict[Key, ResourceT]:
    return {(one.namespace, one.name): one for one in resources}
