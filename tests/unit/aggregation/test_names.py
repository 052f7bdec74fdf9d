"""Strategies by name: what a round may ask for, checked without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from umim.aggregation.fedavg import FedAvg
from umim.aggregation.names import STRATEGIES, check_aggregation, check_strategy, fewest_sites, packages
from umim.aggregation.strategy import FACTORIES, make_strategy
from umim.aggregation.uniform import Uniform
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


def install(folder: Path, package: str, *points: str) -> None:
    """Make a package that is installed in a folder, with entry points for strategies."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[umim.strategies]", *points]))


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_strategy_that_a_package_registers_is_taken(site_packages: Path) -> None:
    install(site_packages, "umim-mine", "mine = umim.aggregation.uniform:Uniform")
    assert isinstance(make_strategy(AggregationSpec(strategy="mine")), Uniform)
    assert packages("mine") == ("umim-mine",)
    assert packages("uniform") == ()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"options": {"beta": 1}}, "options.beta: mine takes no such option; allowed: none"),
        ({"byzantine": 1}, "byzantine: 1 is not allowed: mine is not robust"),
        ({"mixing": "nearest-neighbors"}, "mixing: nearest-neighbors is not allowed with strategy mine"),
        ({"strategy": "other"}, "strategy: 'other' is unknown; allowed: centered-clipping, fedadagrad, "),
    ],
)
def test_what_a_strategy_of_a_package_cannot_take_is_named(
    site_packages: Path, spec: dict[str, Any], words: str
) -> None:
    install(site_packages, "umim-mine", "mine = umim.aggregation.uniform:Uniform")
    with pytest.raises(ConfigError, match=re.escape(f"spec.aggregation.{words}")):
        check_strategy(AggregationSpec.model_validate({"strategy": "mine", **spec}))


def test_a_package_cannot_replace_a_strategy_of_umim(site_packages: Path) -> None:
    install(site_packages, "umim-mine", "fedavg = umim.aggregation.uniform:Uniform")
    assert isinstance(make_strategy(AggregationSpec(strategy="fedavg")), FedAvg)
    assert packages("fedavg") == ()


def test_a_name_that_two_packages_register_is_refused(site_packages: Path) -> None:
    install(site_packages, "umim-mine", "mine = umim.aggregation.uniform:Uniform")
    install(site_packages, "umim-yours", "mine = umim.aggregation.fedavg:FedAvg")
    with pytest.raises(ConfigError, match=r"'mine' is registered twice, as umim\.aggregation\..*uninstall one"):
        check_strategy(AggregationSpec(strategy="mine"))


@pytest.mark.parametrize("place", ["umim_nowhere:Mine", "umim.aggregation.uniform:Mine"])
def test_a_strategy_whose_code_is_missing_is_named(site_packages: Path, place: str) -> None:
    install(site_packages, "umim-mine", f"mine = {place}")
    with pytest.raises(ConfigError, match=rf"strategy: 'mine' is {re.escape(place)}, which has no such code: "):
        make_strategy(AggregationSpec(strategy="mine"))
