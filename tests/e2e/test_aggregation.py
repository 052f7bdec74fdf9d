"""Robust rounds on encoded updates, and aggregators that are killed, doubled or short of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from hack.testenv.aggregations import Aggregation, committed, peak_memory, samples_of
from hack.testenv.hospitals import Site
from hack.testenv.platform import FEDERATION, Platform
from hack.testenv.rounds import Round
from hack.testenv.waiting import wait_until
from tests.benchmarks.aggregation.inputs import Inputs, make_inputs
from tests.e2e.conftest import Launch
from umim import contract
from umim.api.round import AggregationSpec
from umim.artifacts.encodings import decode

Object = dict[str, Any]
Values = NDArray[Any]
CLIP_NORM = 0.05
ROBUST = {"strategy": "trimmed-mean", "byzantine": 1, "clipNorm": CLIP_NORM, "encoding": {"format": "int8"}}
ARCHITECTURE, UPDATES, MEMORY = "vit_base_patch16_224", 8, "1Gi"
SECONDS = 300.0
"""Longest wait for a merge of 8 updates on a busy machine."""


def start_robust(launch: Launch, name: str, sites: tuple[Site, Site, Site]) -> Round:
    return launch(name, *sites, aggregation=ROBUST, training={"epochs": 2})


@pytest.fixture(scope="module")
def robust(launch: Launch, sites: tuple[Site, Site, Site]) -> Round:
    """A round that nobody disturbs."""
    made = start_robust(launch, "robust", sites)
    made.wait_phase("Complete")
    return made


def test_a_robust_round_over_int8_updates_is_the_median_of_three_clipped_changes(
    platform: Platform, robust: Round, sites: tuple[Site, Site, Site]
) -> None:
    store = platform.store()
    parent = safetensors.numpy.load(store.get(contract.model_key(robust.status["parent"]["digest"])))
    files = [safetensors.numpy.load(store.get(contract.update_key(robust.uid, site.name, 1))) for site in sites]
    changes = [{name: _change(file, name, value) for name, value in parent.items()} for file in files]
    norms = [math.sqrt(sum(float((value**2).sum()) for value in change.values())) for change in changes]
    assert max(norms) > CLIP_NORM, "nothing was clipped: the test proves less than it says"
    for site, norm in zip(sites, norms, strict=True):
        assert robust.site(site)["updateNorm"] == pytest.approx(norm, rel=1e-6)
        assert -1 <= robust.site(site)["updateCosine"] <= 1
    merged = safetensors.numpy.load(store.get(robust.model()["spec"]["objectKey"]))
    for name, value in merged.items():
        clipped = [change[name] * min(1, CLIP_NORM / norm) for change, norm in zip(changes, norms, strict=True)]
        np.testing.assert_allclose(value, parent[name] + np.median(clipped, axis=0), rtol=1e-6, atol=1e-7)


def _change(file: dict[str, Values], name: str, parent: Values) -> Values:
    """Return what a site changed in a tensor, as float64."""
    entries = {key: file[key].tobytes() for key in (name, f"{name}.scale")}
    views = {key: memoryview(value) for key, value in entries.items()}
    return decode(name, views, parent.shape, "int8").astype(np.float64).reshape(parent.shape)


def test_a_round_whose_aggregator_was_killed_publishes_the_same_model(
    platform: Platform, launch: Launch, robust: Round, sites: tuple[Site, Site, Site]
) -> None:
    killed = start_robust(launch, "robust-killed", sites)

    def kill() -> bool:
        pods = [pod for pod in killed.pods(FEDERATION) if pod["metadata"]["labels"][contract.LABEL_ROLE] == "aggregate"]
        for pod in pods:
            platform.api.delete("Pod", FEDERATION, pod["metadata"]["name"], now=True)
        return bool(pods)

    wait_until("an aggregator to kill", kill, SECONDS, killed.dump)
    done = killed.wait_phase("Complete")["aggregation"]
    assert (done["phase"], done["attempt"], done["failures"]) == ("Succeeded", 2, 1)
    assert killed.model()["spec"]["digest"] == robust.model()["spec"]["digest"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A ViT-B/16 and two changed ones, 346 MB each."""
    return make_inputs(ARCHITECTURE, 2, tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def large(platform: Platform, inputs: Inputs) -> Iterator[Aggregation]:
    """Eight updates of ViT-B/16, 2.8 GB, that no Job has merged yet."""
    spec = AggregationSpec()
    with committed(platform, inputs.parent, inputs.updates, UPDATES, ARCHITECTURE, spec) as found:
        yield found


def _finish(large: Aggregation, job: str) -> str:
    """Wait for the end of a Job, which must succeed, and return its log."""
    code = wait_until(f"{job} ended", lambda: large.exit_code(job), SECONDS, lambda: large.dump(job))
    assert code == 0, large.dump(job)
    return large.dump(job)


@pytest.fixture(scope="module")
def doubled(large: Aggregation) -> Object:
    """What became of a Job that was killed in its merge, and of two that then merged at the same time."""
    pod = large.wait_log(large.launch(1, MEMORY), f"merging {UPDATES} updates", SECONDS)
    large.platform.api.delete("Pod", FEDERATION, pod["metadata"]["name"], now=True)
    wait_until("the killed process is gone", lambda: peak_memory(pod) is None, 60, lambda: str(pod))
    left = large.result()
    jobs = [large.launch(attempt, MEMORY) for attempt in (2, 3)]
    for job in jobs:
        large.wait_log(job, f"merging {UPDATES} updates", SECONDS)
    return {"left": left, "logs": [_finish(large, job) for job in jobs], "result": large.result()}


def test_an_aggregator_killed_in_its_merge_leaves_no_result(doubled: Object) -> None:
    assert doubled["left"] is None


def test_two_aggregators_at_once_publish_one_model_and_one_result(doubled: Object) -> None:
    digest = doubled["result"].model_digest
    assert digest is not None
    for log in doubled["logs"]:
        assert f"published model {digest} from {UPDATES} updates" in log
    assert sum("another attempt committed the result" in log for log in doubled["logs"]) == 1


def test_the_merge_of_eight_vit_b_in_one_gibibyte_is_the_mean_in_float64(
    platform: Platform, doubled: Object, inputs: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "merged.safetensors"
    platform.store().download(contract.model_key(doubled["result"].model_digest), path)
    samples = [samples_of(number) for number in range(UPDATES)]
    shares = [sum(samples[first::2]) / sum(samples) for first in range(2)]
    for name in ("pos_embed", "blocks.0.attn.qkv.weight", "norm.bias"):
        first, second = (_tensor(file, name) for file in inputs.updates)
        np.testing.assert_allclose(_tensor(path, name), shares[0] * first + shares[1] * second, rtol=1e-6, atol=1e-8)


def test_an_undisturbed_aggregator_publishes_the_digest_of_the_disturbed_ones(
    large: Aggregation, doubled: Object
) -> None:
    large.forget()
    _finish(large, large.launch(4, MEMORY))
    result = large.result()
    assert result is not None
    assert result.model_digest == doubled["result"].model_digest


def _tensor(path: Path, name: str) -> Values:
    with safetensors.safe_open(path, "numpy") as file:
        return np.asarray(file.get_tensor(name), np.float64)
