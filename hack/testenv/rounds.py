"""Rounds of the tests: small specs, and a handle that waits for what the API says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from hack.testenv.api import Object
from hack.testenv.handle import SECONDS, Handle
from hack.testenv.hospitals import Site
from hack.testenv.images import SIDE
from hack.testenv.platform import FEDERATION, Platform, describe_pod
from umim import contract
from umim.api.round import Progress

ARCHITECTURE = "test_vit"
"""timm's model for tests: 0.3 million parameters."""
SMALL = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
RANDOM = {"init": "random"}


def round_body(name: str, sites: Iterable[Site], parent: dict[str, str], **spec: Any) -> Object:
    """Return a FederationRound over these sites. spec: fields that differ from the small defaults."""
    found = sorted(sites, key=lambda site: site.name)
    participants = {"hospitals": [site.reference for site in found], "quorum": spec.pop("quorum", len(found))}
    training = {"epochs": 1, "batchSize": 8, "seed": 1, **spec.pop("training", {})}
    return {
        "apiVersion": "umim.dev/v1alpha1",
        "kind": "FederationRound",
        "metadata": {"name": name, "namespace": FEDERATION},
        "spec": {
            "model": {"architecture": ARCHITECTURE, "imageSize": SIDE, "parent": parent},
            "participants": participants,
            "training": training,
            "resources": SMALL,
            **spec,
        },
    }


@dataclass(frozen=True)
class Round(Handle):
    """One round on the cluster."""

    uid: str

    kind: ClassVar[str] = "FederationRound"

    @classmethod
    def create(cls, platform: Platform, body: Object) -> Round:
        """Create the round."""
        made = platform.api.create(body)
        return cls(platform, made["metadata"]["name"], made["metadata"]["uid"])

    def site(self, site: Site) -> Object:
        """Return the status of one site as it is now; empty before the round is accepted."""
        return _site(self.status, site)

    def condition(self, type_: str) -> Object:
        """Return one condition as it is now. Raises KeyError where it is not set yet."""
        found: dict[str, Object] = {item["type"]: item for item in self.status["conditions"]}
        return found[type_]

    def wait_phase(self, phase: str, seconds: float = SECONDS) -> Object:
        """Wait for the phase and return the status."""
        self.wait(f"phase {phase}", lambda status: status.get("phase") == phase, seconds)
        return self.status

    def wait_site(self, site: Site, phase: str, seconds: float = SECONDS) -> Object:
        """Wait for a site's phase and return the site's status."""
        found: Object = self.wait(
            f"site {site.name} {phase}", lambda status: _in_phase(_site(status, site), phase), seconds
        )
        return found

    def jobs(self, namespace: str = "") -> list[Object]:
        """Return the Jobs of the round."""
        return self._labelled("Job", namespace)

    def pods(self, namespace: str = "") -> list[Object]:
        """Return the Pods of the round."""
        return self._labelled("Pod", namespace)

    def secrets(self) -> list[Object]:
        """Return the Secrets of the round."""
        return self._labelled("Secret", "")

    def objects(self) -> list[str]:
        """Return the keys of the round's objects in the store."""
        return [item.key for item in self.platform.store().list(contract.round_prefix(self.uid))]

    def active_jobs(self) -> list[str]:
        """Return the names of the round's Jobs that have not ended."""
        return [job["metadata"]["name"] for job in self.jobs() if not _ended(job)]

    def kill_site(self, site: Site) -> None:
        """Kill the running Pod of a site without a grace period."""
        for pod in self.pods(site.namespace):
            if pod["status"].get("phase") == "Running":
                self.platform.api.delete("Pod", site.namespace, pod["metadata"]["name"], now=True)

    def reports(self, site: Site) -> list[Progress]:
        """Return all live reports of a site over all attempts, oldest first."""
        stream: Any = self.platform.redis().xrange(contract.progress_stream(self.uid, site.name))
        return [Progress.model_validate_json(entry["progress"]) for _, entry in stream]

    def contributors(self) -> list[str]:
        """Return the sites whose updates the published model holds."""
        return [item["site"] for item in self.model()["spec"]["contributors"]]

    def model(self) -> Object:
        """Return the GlobalModel that the round published."""
        return self.platform.api.get("GlobalModel", FEDERATION, self.status["globalModel"]["name"])

    def dump(self) -> str:
        """Return all that explains where the round stands."""
        found = self.platform.api.find("FederationRound", FEDERATION, self.name)
        status = json.dumps((found or {}).get("status"), indent=1)
        pods = "\n".join(describe_pod(self.platform.api, pod) for pod in self.pods())
        return f"round {self.name} ({self.uid}) status: {status}\n{pods}"

    def _labelled(self, kind: str, namespace: str) -> list[Object]:
        return self.platform.api.select(kind, namespace, {contract.LABEL_ROUND_UID: self.uid})


def _site(status: Object, site: Site) -> Object:
    found: dict[str, Object] = {item["name"]: item for item in status.get("sites", [])}
    return found.get(site.name, {})


def _ended(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


def _in_phase(site: Object, phase: str) -> Object | None:
    return site if site.get("phase") == phase else None
