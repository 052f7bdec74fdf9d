"""Small federations: two hospitals and a server with textures of 32 pixels, a ViT of 0.3 million parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hack.testenv.images import SIDE, write_textures
from umim.artifacts.local import LocalStore
from umim.simulation.claims import LocalClaims
from umim.simulation.resources import parse_documents
from umim.simulation.result import SimulationResult
from umim.simulation.run import simulate
from umim.training.reporter import ProgressSink
from umim.training.runtime import Runtime, start_runtime
from umim.training.site import Surroundings

ARCHITECTURE = "test_vit"
FEDERATION = "federation"
API_VERSION = "umim.dev/v1alpha1"
POOL = {"claimName": "pool", "path": "images.npz", "format": "npz", "task": "none"}
TRAINING = {"epochs": 1, "batchSize": 8, "seed": 1}


def hospital(name: str, **changes: Any) -> dict[str, Any]:
    """Return the Hospital of a namespace."""
    spec = {
        "federations": [FEDERATION],
        "data": {"claimName": "images", "path": "images.npz", "format": "npz"},
        "workClaimName": "work",
        **changes,
    }
    meta = {"name": "radiology", "namespace": f"hospital-{name}", "labels": {"umim.dev/letter": name}}
    return {"apiVersion": API_VERSION, "kind": "Hospital", "metadata": meta, "spec": spec}


def participants(*names: str, quorum: int | None = None) -> dict[str, Any]:
    """Return the participants of a round."""
    hospitals = [{"namespace": f"hospital-{name}", "name": "radiology"} for name in names]
    return {"hospitals": hospitals, "quorum": quorum or len(names)}


def a_round(*names: str, quorum: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return a FederationRound over hospitals."""
    spec = {
        "model": {"architecture": ARCHITECTURE, "imageSize": SIDE, "parent": {"init": "random"}},
        "participants": participants(*names, quorum=quorum),
        "training": TRAINING,
        **changes,
    }
    return _resource("FederationRound", "round", spec)


def a_federation(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a Federation of two stages, a and then b, or of the stages that are given."""
    default = ({"name": "one", "participants": participants("a")}, {"name": "two", "participants": participants("b")})
    spec = {
        "model": {"architecture": ARCHITECTURE, "imageSize": SIDE, "parent": {"init": "random"}},
        "training": TRAINING,
        "stages": list(stages or default),
        **changes,
    }
    return _resource("Federation", "campaign", spec)


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": name, "namespace": FEDERATION}
    return copy.deepcopy({"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec})


@dataclass
class Machine:
    """A folder with the data of all, and a store."""

    root: Path
    runtime: Runtime
    sink: ProgressSink = lambda _progress: None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The folder with the claims."""
        return self.root / "data"

    @property
    def store(self) -> LocalStore:
        """The store of the runs."""
        return LocalStore(self.root / "out")

    def run(self, *documents: dict[str, Any]) -> SimulationResult:
        """Simulate the one campaign of these documents."""
        (campaign,), hospitals = parse_documents(documents, "test.yaml")
        return simulate(
            campaign,
            hospitals,
            LocalClaims(self.data, {}),
            self.store,
            self.root / "out" / "work",
            Surroundings(self.runtime, self.sink),
            **self.options,
        )

    def both(self, campaign: dict[str, Any], **changes: Any) -> SimulationResult:
        """Simulate with hospitals a and b; ``changes`` are of hospital b."""
        return self.run(campaign, hospital("a"), hospital("b", **changes))


@pytest.fixture(autouse=True, scope="session")
def runtime() -> Runtime:
    """The CPU with one thread: test machines are shared."""
    return start_runtime(threads=1)


@pytest.fixture
def new_machine(tmp_path: Path, runtime: Runtime) -> Callable[[str], Machine]:
    """Makes machines with equal data."""

    def make(name: str) -> Machine:
        machine = Machine(tmp_path / name, runtime)
        for seed, claim in enumerate(("hospital-a/images", "hospital-b/images", f"{FEDERATION}/pool")):
            write_textures(machine.data / claim / "images.npz", 24, seed)
        return machine

    return make


@pytest.fixture
def machine(new_machine: Callable[[str], Machine]) -> Machine:
    return new_machine("machine")
