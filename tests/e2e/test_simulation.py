"""A campaign that is simulated without a cluster gives the very models that the cluster publishes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from hack.testenv.campaigns import Campaign, federation_body, stage
from hack.testenv.handle import SECONDS
from hack.testenv.hospitals import NAME, Site
from hack.testenv.images import write_textures
from hack.testenv.platform import FEDERATION, Platform, describe_pod
from hack.testenv.rounds import Round
from hack.testenv.volumes import federation_volume
from hack.testenv.waiting import wait_until
from umim import contract
from umim.api.base import ModelReference
from umim.artifacts.models import fetch_parts
from umim.artifacts.parts import read_parts
from umim.models.state import ModelState

Object = dict[str, Any]
CLAIM = "simulation"
POD = "simulation"
BETA2 = 0.9
ADAM = {
    "strategy": "fedadam",
    "options": {"serverLearningRate": 0.001, "beta2": BETA2},
    "encoding": {"format": "int8"},
    "scales": [0.5, 1.0],
}
"""The server's optimiser and what the encoding lost go from round to round."""
OWN_ENVIRONMENT = (contract.ENV_CONFIG, contract.ENV_TRACEPARENT)
SCRIPT = f"""
import json, os
from pathlib import Path
from umim.artifacts.local import LocalStore
from umim.simulation.claims import LocalClaims
from umim.simulation.resources import parse_documents
from umim.simulation.run import simulate
from umim.training.runtime import start_runtime, thread_count
from umim.training.site import Surroundings

data, tmp = Path("/data"), Path("/tmp")
(campaign,), hospitals = parse_documents(json.loads((data / "documents.json").read_text()), "documents.json")
claims = LocalClaims(data, {{("{FEDERATION}", "{CLAIM}"): data}})
around = Surroundings(start_runtime(thread_count(os.environ)), lambda progress: None)
result = simulate(campaign, hospitals, claims, LocalStore(tmp / "out"), tmp / "work", around)
print(json.dumps(result.to_dict()))
"""


@pytest.fixture(scope="module")
def volume(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the server's images that is the claim ``simulation`` of the federation."""
    folder = tmp_path_factory.mktemp("simulation") / "volume"
    write_textures(folder / "pool.npz", 24, seed=9)
    with federation_volume(platform, CLAIM, folder):
        yield folder


@pytest.fixture(scope="module")
def in_cluster(platform: Platform, volume: Path, sites: tuple[Site, Site, Site]) -> Iterator[Campaign]:
    """A campaign of two stages with all that the server can do, by the operator."""
    first, second, _ = sites
    body = federation_body(
        "in-cluster",
        [stage("both", [first, second]), stage("one", [second], training={"epochs": 1, "batchSize": 8, "seed": 5})],
        {"init": "mim"},
        pretraining={"epochs": 1, "batchSize": 8},
        serverDataset={"claimName": CLAIM, "path": "pool.npz", "format": "npz", "task": "none"},
        training={"epochs": 2, "batchSize": 8, "seed": 1, "objective": "supervised+mim"},
        aggregation=ADAM,
        distillation={"epochs": 1, "batchSize": 8},
    )
    made = Campaign.create(platform, body)
    try:
        made.wait("complete", lambda status: status.get("phase") == "Complete", 2 * SECONDS)
        yield made
    finally:  # its Pods hold the volume
        made.delete()


def test_a_simulated_campaign_gives_the_clusters_models(
    platform: Platform, in_cluster: Campaign, volume: Path, sites: tuple[Site, Site, Site]
) -> None:
    _write_inputs(platform, in_cluster, volume, sites[:2])
    simulated = _simulate(platform, in_cluster.rounds[0], sites[0])
    assert simulated["phase"] == "Complete"
    rounds = [one["status"] for one in simulated["rounds"]]
    told = in_cluster.dump()
    assert _trail(rounds) == _trail([one.status for one in in_cluster.rounds]), told
    lineage = [rounds[0]["parent"], *(one["globalModel"] for one in rounds)]
    assert all(model["partsDigest"] for model in lineage)
    assert lineage == in_cluster.status["lineage"]
    spec = in_cluster.rounds[-1].model()["spec"]
    assert (
        simulated["rounds"][-1]["models"][-1]["spec"]["metrics"]["server_mim_loss"]
        == (spec["metrics"]["server_mim_loss"])
    )


def test_the_servers_optimiser_goes_on_in_the_next_round(
    platform: Platform, in_cluster: Campaign, tmp_path: Path
) -> None:
    first, second = (_second_moment(platform, made, tmp_path / made.name) for made in in_cluster.rounds)
    assert first.keys() == second.keys() != set()
    for name, value in first.items():
        assert np.any(value > 0), f"{name} has not changed in the first round"
        assert np.all(second[name] >= value * np.float32(BETA2) * (1 - 1e-6)), (
            f"{name} did not start from the round before"
        )


def _second_moment(platform: Platform, made: Round, path: Path) -> dict[str, NDArray[np.float32]]:
    """Return what Adam remembers of the squared changes, from the store."""
    reference = ModelReference.model_validate(made.status["globalModel"])
    assert fetch_parts(platform.store(), reference, path)
    slots = ModelState.from_parts({}, read_parts(path)[0]).optimiser
    key = contract.optimiser_key(reference.digest, slots["fedadam.second_moment"])
    return safetensors.numpy.load(platform.store().get(key))


def _trail(rounds: list[Object]) -> list[tuple[str, str]]:
    """Return what was made one after another, with its digest: the first difference tells which Job made another."""
    return [
        step
        for status in rounds
        for step in (
            ("parent", status["parent"]["digest"]),
            *((site["name"], site["updateDigest"]) for site in status["sites"]),
            ("model", status["globalModel"]["digest"]),
        )
    ]


def _write_inputs(platform: Platform, made: Campaign, volume: Path, sites: tuple[Site, ...]) -> None:
    """Write the campaign and its hospitals, as the API server has them, and copies of their data."""
    hospitals = [platform.api.get("Hospital", site.namespace, NAME) for site in sites]
    for site, hospital in zip(sites, hospitals, strict=True):
        shutil.copytree(site.folder / "data", volume / site.namespace / hospital["spec"]["data"]["claimName"])
    (volume / "documents.json").write_text(json.dumps([made.body, *hospitals]))


def _simulate(platform: Platform, made: Round, site: Site) -> Object:
    """Run the simulation in a Pod like that of the site's Job, and return its result."""
    api = platform.api
    (job,) = made.jobs(site.namespace)
    (like,) = job["spec"]["template"]["spec"]["containers"]
    container = {key: like[key] for key in ("image", "imagePullPolicy", "resources", "securityContext")}
    container |= {
        "name": POD,
        "command": ["python", "-c", SCRIPT],
        "env": [item for item in like["env"] if item["name"] not in OWN_ENVIRONMENT],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": job["spec"]["template"]["spec"]["securityContext"],
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    meta = {"name": POD, "namespace": FEDERATION}
    api.delete("Pod", FEDERATION, POD, now=True)
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    try:
        phase = wait_until("the simulation has ended", lambda: _ended(platform), SECONDS, lambda: _described(platform))
        assert phase == "Succeeded", _described(platform)
        result: Object = json.loads(api.log(FEDERATION, POD).splitlines()[-1])
        return result
    finally:
        api.delete("Pod", FEDERATION, POD, now=True)


def _ended(platform: Platform) -> str | None:
    phase = platform.api.get("Pod", FEDERATION, POD)["status"].get("phase")
    return phase if phase in ("Succeeded", "Failed") else None


def _described(platform: Platform) -> str:
    return describe_pod(platform.api, platform.api.get("Pod", FEDERATION, POD))
