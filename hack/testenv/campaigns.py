"""Campaigns of the tests: small Federations, and a handle that waits for what the API says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from hack.testenv.api import Object
from hack.testenv.handle import Handle
from hack.testenv.hospitals import Site
from hack.testenv.images import SIDE
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import ARCHITECTURE, SMALL, Round
from umim import contract


def stage(name: str, sites: Iterable[Site], **changes: Any) -> Object:
    """Return a stage of these sites, all of which must deliver."""
    found = sorted(sites, key=lambda site: site.name)
    return {
        "name": name,
        "participants": {"hospitals": [site.reference for site in found], "quorum": len(found)},
        **changes,
    }


def federation_body(name: str, stages: list[Object], parent: dict[str, str], **spec: Any) -> Object:
    """Return a Federation of these stages. spec: fields that differ from the small defaults."""
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "Federation",
        "metadata": {"name": name, "namespace": FEDERATION},
        "spec": {
            "model": {"architecture": ARCHITECTURE, "imageSize": SIDE, "parent": parent},
            "training": {"epochs": 1, "batchSize": 8, "seed": 1},
            "resources": SMALL,
            "stages": stages,
            **spec,
        },
    }


@dataclass(frozen=True)
class Campaign(Handle):
    """One Federation on the cluster."""

    kind: ClassVar[str] = "Federation"

    @classmethod
    def create(cls, platform: Platform, body: Object) -> Campaign:
        """Create the Federation."""
        return cls(platform, platform.api.create(body)["metadata"]["name"])

    @property
    def rounds(self) -> list[Round]:
        """Its FederationRounds that exist, sorted by name."""
        labels = {contract.LABEL_FEDERATION: self.name}
        owned = [item["metadata"] for item in self.platform.api.select("FederationRound", FEDERATION, labels)]
        found = [Round(self.platform, meta["name"], meta["uid"]) for meta in owned]
        return sorted(found, key=lambda round_: round_.name)

    def condition(self, type_: str) -> Object:
        """Return one condition as it is now; empty before it is set."""
        found: dict[str, Object] = {item["type"]: item for item in self.status.get("conditions", [])}
        return found.get(type_, {})

    def dump(self) -> str:
        """Return all that explains where the campaign stands."""
        found = self.platform.api.find("Federation", FEDERATION, self.name) or {}
        rounds = "\n".join(round_.dump() for round_ in self.rounds)
        return f"federation {self.name} status: {json.dumps(found.get('status'), indent=1)}\n{rounds}"
