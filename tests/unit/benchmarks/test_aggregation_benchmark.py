"""The aggregation benchmark: its report from made-up records, and one small run of this project's side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.benchmarks.aggregation import report
from tests.benchmarks.aggregation.inputs import Inputs, make_inputs
from tests.benchmarks.aggregation.measure import Laboratory, load_records, run_pass
from tests.benchmarks.aggregation.plan import LIMIT, OURS, PROFILES, Group, Profile
from tests.benchmarks.aggregation.reference import largest_error, write_reference
from tests.benchmarks.aggregation.venvs import Environment

NETWORK = "test_vit"
RULES = ("mean", "median", "trimmed-mean", "krum")
PROFILE = Profile(
    "full", NETWORK, 4, tuple(Group(NETWORK, 4, rule, mode) for rule in RULES for mode in ("file", "bare")), (4, 64), 3
)
SURROUNDINGS: dict[str, Any] = {
    "profile": "full",
    "software": {},
    "hardware": {"processor": "an abacus", "cores": 2},
    "peers": {"flwr": {"versions": {"flwr": "1"}, "problem": ""}, "openfl": {"versions": {}, "problem": "no wheel"}},
}
KEYS = {
    "mean_speedup_vs_best_peer",
    "file_to_file_speedup_vs_best_peer",
    "median_speedup_vs_best_peer",
    "mean_time_over_hash_time",
    "rss_64_over_rss_4",
}


def record(system: str, path: str, rule: str, mode: str, seconds: float, **more: Any) -> dict[str, Any]:
    about = {"architecture": NETWORK, "count": 4, "rule": rule, "mode": mode, "growth": False}
    result = {
        "repeat": 0,
        "seconds": seconds,
        "cpu_seconds": 1.0,
        "peak_bytes": 100,
        "before_bytes": 40,
        "largest_error": 1e-8,
    }
    return {**about, "system": system, "path": path, **result, **more}


def records() -> list[dict[str, Any]]:
    return [
        record(OURS, "engine", "mean", "bare", 1.0),
        record("nvflare", "numpy", "mean", "bare", 3.0),
        record("flwr", "aggregate", "mean", "bare", 20.0),
        record(OURS, "unverified", "mean", "file", 2.0),
        record(OURS, "verified", "mean", "file", 3.0),
        record(LIMIT, "sha256", "mean", "file", 2.5),
        record("nvflare", "torch", "mean", "file", 8.0),
        record(OURS, "engine", "median", "bare", 2.0),
        record("openfl", "Median", "median", "bare", 11.0),
        record(OURS, "stored", "mean", "file", 4.0),
        record(OURS, "stored", "mean", "file", 48.0, count=64, peak_bytes=105),
    ]


def test_the_summary_compares_with_the_fastest_peer_and_the_limits() -> None:
    found = report.result(PROFILE, records(), SURROUNDINGS)
    assert found["summary"].keys() == KEYS
    assert found["summary"] == {
        "mean_speedup_vs_best_peer": 3.0,
        "file_to_file_speedup_vs_best_peer": 4.0,
        "median_speedup_vs_best_peer": 5.5,
        "mean_time_over_hash_time": 1.2,
        "rss_64_over_rss_4": 1.05,
    }
    assert found["targets"]["mean_speedup_vs_flwr"] == 20.0
    assert found["targets"]["krum_speedup_vs_best_peer"] is None


def test_the_median_of_the_repeats_counts() -> None:
    more = [record(OURS, "engine", "mean", "bare", seconds, repeat=turn) for turn, seconds in ((1, 1.5), (2, 9.0))]
    found = report.result(PROFILE, records() + more, SURROUNDINGS)
    assert found["summary"]["mean_speedup_vs_best_peer"] == 2.0


def test_what_could_not_be_measured_is_said_and_compared_with_nothing(tmp_path: Path) -> None:
    broken = record("flwr", "aggregate_median", "median", "bare", 0.0, problem="needs 900 GB of memory")
    del broken["seconds"]
    found = report.result(PROFILE, [*records(), broken], SURROUNDINGS)
    assert found["summary"]["median_speedup_vs_best_peer"] == 5.5
    report.write(found, tmp_path)
    page = (tmp_path / "aggregation.md").read_text()
    assert "| flwr aggregate_median | needs 900 GB of memory |" in page
    assert "- openfl: no wheel" in page


def test_without_any_measurement_there_is_a_report_that_says_so(tmp_path: Path) -> None:
    found = report.result(PROFILE, [], SURROUNDINGS)
    assert set(found["summary"].values()) == {None}
    report.write(found, tmp_path)
    assert "| `mean_time_over_hash_time` | not measured |" in (tmp_path / "aggregation.md").read_text()


def test_page_json_and_plots_are_written(tmp_path: Path) -> None:
    report.write(report.result(PROFILE, records(), SURROUNDINGS), tmp_path)
    assert json.loads((tmp_path / "aggregation.json").read_text())["summary"].keys() == KEYS
    page = (tmp_path / "aggregation.md").read_text()
    for picture in ("aggregation-mean.png", "aggregation-growth.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
        assert f"]({picture})" in page


def test_the_full_profile_has_every_key_of_the_summary() -> None:
    assert report.result(PROFILES["full"], [], SURROUNDINGS)["summary"].keys() == KEYS


def small(folder: Path, values: list[list[float]]) -> Inputs:
    paths = [folder / f"{number}.safetensors" for number in range(len(values))]
    for path, one in zip(paths, values, strict=True):
        save_file({"a": np.array(one[:1], np.float32), "b": np.array(one[1:], np.float32)}, path)
    return Inputs(paths[0], tuple(paths), tuple(range(1, len(values) + 1)))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [(2 + 4.5 + 16 + 500) / 15, 0.25 * (1 + 4 + 9 + 16 + 25) / 15]),
        ("median", [1.5, 0.75]),
        ("trimmed-mean", [6.5 / 3, 0.75]),
        ("krum", [1.0, 0.5]),
    ],
)
def test_the_reference_is_the_rule_in_float64(rule: str, expected: list[float], tmp_path: Path) -> None:
    inputs = small(tmp_path, [[0, 0.25], [1, 0.5], [1.5, 0.75], [4, 1], [100, 1.25]])
    write_reference(rule, inputs, 1, tmp_path / "reference")
    np.testing.assert_allclose(np.fromfile(tmp_path / "reference"), expected, rtol=1e-15)


def test_the_error_is_the_largest_and_another_model_is_refused(tmp_path: Path) -> None:
    inputs = small(tmp_path, [[0.0, 1.0, 2.0], [0.0, 1.5, 2.0], [0.0, 1.0, float("nan")], [0.0, 1.0]])
    np.array([0.0, 1.0, 2.0]).tofile(tmp_path / "reference")
    found = [largest_error(path, tmp_path / "reference") for path in inputs.updates[:3]]
    assert found == [0.0, 0.5, float("inf")]
    with pytest.raises(RuntimeError, match="holds 2 values, 3 were expected"):
        largest_error(inputs.updates[3], tmp_path / "reference")


def test_more_updates_than_there_are_files_are_links_to_them(tmp_path: Path) -> None:
    inputs = small(tmp_path, [[0, 1], [1, 2]]).first(5, tmp_path / "links")
    assert [path.samefile(inputs.updates[number % 2]) for number, path in enumerate(inputs.updates)] == [True] * 5
    assert len(set(inputs.updates)) == len(set(inputs.samples)) == 5
    assert inputs.bytes_on_disk * 5 == inputs.bytes_of_updates * 2


def test_our_side_is_measured_and_right_and_is_not_measured_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    groups = (Group(NETWORK, 4, "mean", "file"), Group(NETWORK, 4, "median", "bare"))
    profile = Profile("quick", NETWORK, 4, groups, (5,), 1)
    make_inputs(NETWORK, 4, tmp_path / "inputs")
    records = tmp_path / "records"
    records.mkdir()
    absent = {name: Environment(tmp_path, {}, "not installed") for name in ("flwr", "nvflare", "openfl")}
    laboratory = Laboratory(tmp_path / "inputs", tmp_path / "work", records, absent)
    run_pass(profile, laboratory, 0)
    found = {(one["path"], one["count"]): one for one in load_records(records)}
    of_four = {(path, 4) for path in ("unverified", "verified", "stored", "sha256", "cat", "engine")}
    assert found.keys() == of_four | {("stored", 5)}
    assert [one["problem"] for one in found.values() if "problem" in one] == []
    assert all(found[path, 4]["largest_error"] < 1e-7 for path in ("unverified", "verified", "stored", "engine"))
    assert all(one["peak_bytes"] >= one["before_bytes"] > 0 for one in found.values())
    capfd.readouterr()
    run_pass(profile, laboratory, 0)
    assert capfd.readouterr().out == ""
