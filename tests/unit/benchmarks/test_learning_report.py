"""The report of the learning benchmark, from records that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.learning import report
from tests.benchmarks.learning.protocol import FEDERATED, LEFT_OUT, Profile, federation
from umim.rounds.campaign import campaign_rounds

DOMAINS = [f"domain-{number}" for number in range(8)]
PROFILE = Profile("full", (0, 1), ("A1", "A2", "A4"), (0,), (10,), (), 3)
SURROUNDINGS: dict[str, Any] = {
    "profile": "full",
    "split": "test",
    "recipe": {},
    "evaluation": {},
    "packs": {},
    "software": {},
    "hardware": {},
}
KEYS = {
    "wins",
    "domains",
    "p_wilcoxon_A4_A1",
    "median_diff_A4_A1",
    "median_diff_A4_A2",
    "leave_one_out_diff_A4_A1",
    "worst_domain_diff_A4_A1",
}


def record(arm: str, seed: int, score: float, domains: Sequence[str] = DOMAINS) -> dict[str, Any]:
    scores = {name: {"linear@10": score + 0.001 * number} for number, name in enumerate(domains)}
    curve = [{name: value["linear@10"] for name, value in scores.items()}]
    seconds = {"training": 1.0, "server": 0.5, "evaluation": 2.0}
    return {"arm": arm, "seed": seed, "scores": scores, "curve": curve, "seconds": seconds, "details": {}}


def records(seeds: Sequence[int] = (0, 1)) -> list[dict[str, Any]]:
    made = [record(arm, seed, score) for seed in seeds for arm, score in (("A1", 0.6), ("A2", 0.65), ("A4", 0.7))]
    return made + [record(LEFT_OUT + name, 0, 0.62, [name]) for name in DOMAINS]


def test_the_summary_compares_the_arms_over_the_domains() -> None:
    summary = report.result(PROFILE, records(), SURROUNDINGS)["summary"]
    assert set(summary) == KEYS
    assert (summary["wins"], summary["domains"]) == (8, 8)
    assert summary["p_wilcoxon_A4_A1"] == pytest.approx(2 / 2**8)
    assert summary["median_diff_A4_A1"] == pytest.approx(0.1)
    assert summary["median_diff_A4_A2"] == pytest.approx(0.05)
    assert summary["worst_domain_diff_A4_A1"] == pytest.approx(0.1)
    assert summary["leave_one_out_diff_A4_A1"] == pytest.approx(0.0165)


def test_a_loss_is_reported_as_it_is() -> None:
    found = records()
    for one in found:
        if one["arm"] == "A4":
            one["scores"]["domain-3"]["linear@10"] = 0.5
    summary = report.result(PROFILE, found, SURROUNDINGS)["summary"]
    assert summary["wins"] == 7
    assert summary["worst_domain_diff_A4_A1"] == pytest.approx(0.5 - 0.603)


def test_a_seed_that_lacks_an_arm_is_left_out_and_named() -> None:
    found = [one for one in records() if (one["arm"], one["seed"]) != ("A2", 1)]
    result = report.result(PROFILE, found, SURROUNDINGS)
    assert result["seeds"] == [0]
    assert result["unfinished_seeds"] == [1]
    assert {one["seed"] for one in result["records"]} == {0}


def test_an_ablation_is_compared_over_the_seeds_that_have_it() -> None:
    found = [*records(), record("A4-one-stage", 1, 0.6)]
    comparisons = report.result(PROFILE, found, SURROUNDINGS)["comparisons"]["linear@10"]
    assert comparisons["A4-A4-one-stage"]["seeds"] == [1]
    assert comparisons["A4-A1"]["seeds"] == [0, 1]


def test_without_any_finished_seed_the_summary_is_empty_and_nothing_is_drawn(tmp_path: Path) -> None:
    result = report.result(PROFILE, [], SURROUNDINGS)
    assert set(result["summary"].values()) == {None}
    report.write(result, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["learning.json"]


def test_page_json_and_plots_are_written(tmp_path: Path) -> None:
    report.write(report.result(PROFILE, records(), SURROUNDINGS), tmp_path)
    assert json.loads((tmp_path / "learning.json").read_text())["summary"]["wins"] == 8
    page = (tmp_path / "learning.md").read_text()
    assert "| A1: Server MIM only | 2 | 8 | 0 | +0.1000 |" in page
    for picture in ("learning-differences.png", "learning-curves.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
        assert f"]({picture})" in page


@pytest.mark.parametrize("arm", sorted(FEDERATED))
def test_every_federated_arm_takes_the_same_local_passes_and_server_images(arm: str) -> None:
    specs = [federation(FEDERATED[name], DOMAINS, seed=3) for name in ("A2", "A4", arm)]
    passes = [len(campaign_rounds("a", spec)) * spec.training.epochs for spec in specs]
    assert passes[2] == passes[0]
    own, ours = specs[2].distillation, specs[1].distillation
    if own is not None:
        assert ours is not None
        assert ours.images is not None
        assert own.images is not None
        rounds = [len(campaign_rounds("a", spec)) for spec in specs]
        assert own.images * rounds[2] == ours.images * rounds[1]
