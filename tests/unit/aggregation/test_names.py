"""Strategies by name: what a round may ask for, checked without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from umim.aggregation.names import STRATEGIES, check_aggregation, fewest_sites
from umim.aggregation.strategy import FACTORIES, make_strategy
from umim.api.round import AggregationSpec
from umim.errors import ConfigError


def test_every_name_has_its_code_and_the_other_way_round() -> None:
    assert set(STRATEGIES) == set(FACTORIES)
    for name in STRATEGIES:
        make_strategy(AggregationSpec(strategy=name))


def test_an_unknown_strategy_is_named_with_what_is_allowed() -> None:
    with pytest.raises(
        ConfigError, match=r"spec\.aggregation\.strategy: 'fedsum' is unknown; allowed: centered-clipping"
    ):
        check_aggregation(AggregationSpec(strategy="fedsum"), 1)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"options": {"beta": 0.9}}, "options.beta: fedavg takes no such option; allowed: none"),
        ({"strategy": "fedavgm", "options": {"density": 0.5}}, "options.density: fedavgm takes no such option"),
        ({"strategy": "fedavgm", "options": {"momentum": 1}}, "options.momentum: 1.0 is not allowed; allowed: 0 to"),
        ({"strategy": "fedadam", "options": {"tau": 0}}, "options.tau: 0.0 is not allowed; allowed: 1e-12 to 1"),
        ({"strategy": "task-arithmetic", "options": {"scale": float("nan")}}, "options.scale: nan is not allowed"),
        (
            {"strategy": "geometric-median", "options": {"iterations": 1.5}},
            "options.iterations: 1.5 is not a whole number",
        ),
        ({"strategy": "ties", "mixing": "nearest-neighbors"}, "mixing: nearest-neighbors is not allowed with strategy"),
        ({"mixing": "nearest-neighbors"}, "mixing: nearest-neighbors is not allowed with strategy fedavg"),
        ({"byzantine": 1}, "byzantine: 1 is not allowed: fedavg is not robust"),
    ],
)
def test_a_setting_that_the_strategy_does_not_take_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"spec.aggregation.{words}")):
        check_aggregation(AggregationSpec.model_validate(spec), 100)


@pytest.mark.parametrize(
    ("spec", "fewest"),
    [
        ({}, 1),
        ({"strategy": "median"}, 1),
        ({"strategy": "trimmed-mean", "byzantine": 2}, 5),
        ({"strategy": "krum"}, 3),
        ({"strategy": "multi-krum", "byzantine": 1}, 5),
        ({"strategy": "krum", "byzantine": 1, "mixing": "nearest-neighbors"}, 5),
        ({"strategy": "median", "byzantine": 3, "mixing": "nearest-neighbors"}, 7),
    ],
)
def test_the_quorum_must_suffice_for_the_strategy(spec: dict[str, Any], fewest: int) -> None:
    aggregation = AggregationSpec.model_validate(spec)
    assert fewest_sites(aggregation) == fewest
    check_aggregation(aggregation, fewest)
    if fewest > 1:
        words = f"spec.participants.quorum: {fewest - 1} is too small: .* needs at least {fewest} valid updates"
        with pytest.raises(ConfigError, match=words):
            check_aggregation(aggregation, fewest - 1)


def test_what_the_operator_imports_brings_no_torch_and_no_numpy() -> None:
    modules = [
        "umim.aggregation.names",
        "umim.artifacts.manifests",
        "umim.artifacts.minio",
        "umim.artifacts.memory",
        "umim.artifacts.policies",
        "umim.entrypoints.store_setup",
        "umim.progress",
        "umim.settings",
        "umim.telemetry",
    ]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "found = {'torch', 'numpy', 'safetensors', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
