"""Strategies by name: what a round may ask for, checked without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from umim.aggregation.names import STRATEGIES, check_aggregation
from umim.aggregation.strategy import FACTORIES, make_strategy
from umim.api.round import AggregationSpec
from umim.errors import ConfigError


def test_every_name_has_its_code_and_the_other_way_round() -> None:
    assert set(STRATEGIES) == set(FACTORIES)
    for name in STRATEGIES:
        make_strategy(AggregationSpec(strategy=name))


def test_an_unknown_strategy_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"spec\.aggregation\.strategy: 'fedsum' is unknown; allowed: fedavg"):
        check_aggregation(AggregationSpec(strategy="fedsum"))


def test_an_unknown_option_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"spec\.aggregation\.options\.beta: fedavg takes no such option; .* none"):
        check_aggregation(AggregationSpec(options={"beta": 0.9}))


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
