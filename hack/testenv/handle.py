"""A resource of the federation that a test watches: what it is now, and waiting for what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hack.testenv.api import Object
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.waiting import wait_until

SECONDS = 240.0
"""Longest wait for a step on a busy machine."""
DELETION_SECONDS = 90.0


@dataclass(frozen=True)
class Handle:
    """One resource with a status and a phase, in the namespace of the federation."""

    platform: Platform
    name: str

    kind: ClassVar[str]

    @property
    def body(self) -> Object:
        """The resource as it is now."""
        return self.platform.api.get(self.kind, FEDERATION, self.name)

    @property
    def status(self) -> Object:
        """Its status as it is now; empty before the operator's first look."""
        found: Object = self.body.get("status") or {}
        return found

    def wait(self, what: str, probe: Callable[[Object], Any], seconds: float = SECONDS) -> Any:
        """Return the probe's first true value on the status. Fails at once when the resource ended otherwise."""

        def look() -> Any:
            status = self.status
            found = probe(status)
            if not found and status.get("phase") in ("Complete", "Failed"):
                raise AssertionError(f"{self.name} ended before: {what}. Seen:\n{self.dump()}")
            return found or None

        return wait_until(f"{self.name}: {what}", look, seconds, self.dump)

    def set(self, **spec: Any) -> None:
        """Change fields of the spec."""
        self.platform.api.patch(self.kind, FEDERATION, self.name, {"spec": spec})

    def delete(self) -> None:
        """Delete the resource and wait until it is gone."""
        self.platform.api.delete(self.kind, FEDERATION, self.name)
        self.wait_gone(DELETION_SECONDS)

    def wait_gone(self, seconds: float) -> None:
        """Wait until the resource is gone."""
        wait_until(
            f"{self.name} gone",
            lambda: self.platform.api.find(self.kind, FEDERATION, self.name) is None,
            seconds,
            self.dump,
        )

    def dump(self) -> str:
        """Return all that explains where the resource stands."""
        raise NotImplementedError
