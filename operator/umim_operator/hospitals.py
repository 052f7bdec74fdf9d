"""Reads Hospitals for all rounds, and remembers them for seconds: rounds look far more often than hospitals change.

What the watch reports as changed is forgotten at once. The short memory is for the case that the watch misses
something: a withdrawn consent is then seen a little later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from umim.api.base import HospitalReference
from umim_operator import observe
from umim_operator.kube import Kube, MissingError
from umim_operator.state import HospitalView

MEMORY_SECONDS = 30.0
LONGEST_READ_SECONDS = 600.0
"""No answer of the API server is on its way for longer."""
FEW = 32
"""Up to so many are read one by one, more by one list of all: with their ledgers they can have 40 KB each."""


@dataclass(frozen=True)
class _Read:
    view: HospitalView | None
    """None: there is no such Hospital."""
    time: float


class Hospitals:
    """Safe to use from several threads."""

    def __init__(self, kube: Kube, monotonic: Callable[[], float]) -> None:
        self._kube = kube
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._read: dict[str, _Read] = {}
        self._changed: dict[str, float] = {}
        """When something was last heard of a hospital: what was asked for before may be older."""

    def forget(self, site: str) -> None:
        """Read the hospital anew when it is asked for: it has changed."""
        with self._lock:
            self._changed[site] = self._monotonic()
            self._read.pop(site, None)

    def get(self, references: Iterable[HospitalReference]) -> dict[str, HospitalView]:
        """Return those of the hospitals that exist, by site."""
        wanted = {reference.site: reference for reference in references}
        now = self._monotonic()
        with self._lock:
            found = {site: self._read[site] for site in wanted if site in self._read}
        fresh = {site: read for site, read in found.items() if now - read.time < MEMORY_SECONDS}
        missing = [reference for site, reference in wanted.items() if site not in fresh]
        views = {site: read.view for site, read in fresh.items()} | self._fetch(missing, now)
        return {site: view for site in wanted if (view := views[site]) is not None}

    def select(self, labels: Mapping[str, str]) -> dict[str, HospitalView]:
        """Return the hospitals with these labels, by site. Always asks."""
        return self._all(labels)

    def _fetch(self, missing: list[HospitalReference], now: float) -> dict[str, HospitalView | None]:
        if len(missing) > FEW:
            everybody = self._all(None)
            views = {reference.site: everybody.get(reference.site) for reference in missing}
        else:
            views = {reference.site: self._one(reference) for reference in missing}
        with self._lock:
            self._read = {site: read for site, read in self._read.items() if now - read.time < MEMORY_SECONDS}
            for site, view in views.items():
                if self._changed.get(site, now) <= now:
                    self._read[site] = _Read(view, now)
            self._changed = {site: time for site, time in self._changed.items() if now - time < LONGEST_READ_SECONDS}
        return views

    def _all(self, labels: Mapping[str, str] | None) -> dict[str, HospitalView]:
        views = map(observe.hospital_view, self._kube.each("Hospital", labels=labels))
        return {view.reference.site: view for view in views}

    def _one(self, reference: HospitalReference) -> HospitalView | None:
        try:
            return observe.hospital_view(self._kube.get("Hospital", reference.namespace, reference.name))
        except MissingError:
            return None
