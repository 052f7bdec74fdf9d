"""Keeps the files of a folder that dies with its Pod in the object store: checkpoints of the server's Jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from umim.artifacts.store import ObjectStore
from umim.errors import StoreError

INTERVAL_SECONDS = 30.0
"""Least time between two uploads: after a crash at most this much and an epoch is done again."""

_log = logging.getLogger(__name__)


class Mirror:
    """Copies of the files of one folder below one prefix of the store."""

    def __init__(self, store: ObjectStore, prefix: str, pattern: str, clock: Callable[[], float]) -> None:
        """``pattern`` (glob) chooses the files. ``clock`` returns seconds and never goes back."""
        self._store = store
        self._prefix = prefix
        self._pattern = pattern
        self._clock = clock
        self._kept: set[str] = set()
        self._next = clock()

    def restore(self, folder: Path) -> None:
        """Download what an earlier Pod kept. Raises the store's errors.

        Nothing is verified here: a checkpoint holds the digest of its tensors and is checked when it is loaded.
        """
        for item in self._store.list(self._prefix):
            name = item.key.removeprefix(self._prefix)
            if Path(name).name == name and Path(name).match(self._pattern):
                self._store.download(item.key, folder / name)
                self._kept.add(name)
        if self._kept:
            _log.info("fetched %s of an earlier attempt", ", ".join(sorted(self._kept)))

    def save(self, folder: Path) -> None:
        """Upload new files, commit markers (.json) last, and remove what is no longer in the folder.

        Does nothing where the last time is less than ``INTERVAL_SECONDS`` ago. A store that fails is warned about
        only: the training goes on, and the next call tries again.
        """
        if self._clock() < self._next:
            return
        self._next = self._clock() + INTERVAL_SECONDS
        present = sorted(folder.glob(self._pattern), key=lambda path: (path.suffix == ".json", path.name))
        try:
            for path in present:
                if path.name not in self._kept:
                    self._store.upload(path, self._prefix + path.name)
                    self._kept.add(path.name)
            for name in sorted(self._kept - {path.name for path in present}):
                self._store.delete(self._prefix + name)
                self._kept.discard(name)
        except StoreError as error:
            _log.warning("the checkpoint is not kept in the store for now: %s", error)

    def clear(self) -> None:
        """Remove everything from the store. Raises the store's errors."""
        self._store.delete_prefix(self._prefix)
