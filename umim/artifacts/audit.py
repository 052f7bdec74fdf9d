"""The hospital's own record of what leaves, in its work volume: JSON lines, synced before anything is uploaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from umim import contract
from umim.api.artifacts import UpdateManifest
from umim.api.jobs import SiteJobConfig

AUDIT_FOLDER = "audit"

Event = Literal["intent", "done"]


class AuditLog:
    """Appends to ``audit/<site>.jsonl``. Nothing is ever removed from it.

    An ``intent`` is there before the first byte leaves, ``done`` once the update is committed. An intent without its
    done: the artifacts may have left, wholly or in part, and count in no model unless a later attempt committed them.
    """

    def __init__(self, work: Path, config: SiteJobConfig, now: Callable[[], datetime]) -> None:
        """``work`` is the hospital's work volume, ``config`` the Job that writes."""
        self.path = work / AUDIT_FOLDER / f"{config.site}.jsonl"
        self._round = f"{config.round_namespace}/{config.round_name}"
        self._now = now

    def record(self, event: Event, manifest: UpdateManifest, manifest_digest: str) -> None:
        """Append a line for each artifact of an update: update, head, and the manifest with its figures.

        ``manifest_digest`` is the sha256 of the manifest's canonical bytes. Raises OSError when the volume cannot take
        it: then nothing may leave.
        """
        files = {"update": manifest.file} | ({} if manifest.head is None else {"head": manifest.head.file})
        key = contract.update_manifest_key(manifest.round_uid, manifest.site, manifest.attempt)
        time = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {"round": self._round, "roundUid": manifest.round_uid, "attempt": manifest.attempt}
        lines: list[dict[str, object]] = [
            {"kind": kind, "key": file.key, "digest": file.digest, "sizeBytes": file.size_bytes}
            for kind, file in files.items()
        ]
        lines.append({"kind": "manifest", "key": key, "digest": manifest_digest})
        self._append("".join(json.dumps({"time": time, "event": event, **about, **line}) + "\n" for line in lines))

    def _append(self, text: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if is_new:  # the name of a new file is in its folder, which is synced by itself
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
