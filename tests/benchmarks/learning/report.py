"""From the records of all runs to one JSON file, a page and its plots. Numbers only; nothing is run here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.learning import plots
from tests.benchmarks.learning.protocol import ALL_ARMS, CORE, LEFT_OUT, TITLES, Profile
from umim.evaluation.statistics import Comparison, compare, holm, mean_interval

PRIMARY = "linear@10"
PRE_REGISTERED = {"A4-A1": ("A4", "A1"), "A4-A2": ("A4", "A2")}
"""Compared with Holm's correction: the first is primary, the second secondary."""
STATISTICS_SEED = 0

Records = Sequence[Mapping[str, Any]]
Scores = dict[str, list[float]]
"""By domain, one score a seed."""


def result(profile: Profile, records: Records, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole content of learning.json.

    A seed counts when it has all core arms; the others are named. An ablation or reference that not all of these seeds
    have is compared over those that have it.
    """
    core = [arm for arm in profile.arms if arm in CORE]
    complete = [seed for seed in profile.seeds if all(_find(records, arm, seed) for arm in core)]
    arms = [arm for arm in ALL_ARMS if any(_find(records, arm, seed) for seed in complete)]
    measures = _measures(profile)
    comparisons = {measure: _comparisons(records, arms, complete, measure) for measure in measures}
    left_out = _left_out(records, complete)
    return {
        "summary": _summary(comparisons.get(PRIMARY, {}), left_out),
        **surroundings,
        "seeds": complete,
        "unfinished_seeds": [seed for seed in profile.seeds if seed not in complete],
        "comparisons": comparisons,
        "leave_one_out": left_out,
        "means": {measure: _means(records, arms, complete, measure) for measure in measures},
        "curves": _curves(records, arms, complete),
        "seconds": _seconds(records, arms, complete),
        "records": [record for record in records if record["seed"] in complete],
    }


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write learning.json, learning.md and the plots."""
    (folder / "learning.json").write_text(json.dumps(found, indent=1, sort_keys=False) + "\n")
    if found["seeds"]:
        plots.draw(found, folder)
        (folder / "learning.md").write_text(_page(found))


def _measures(profile: Profile) -> list[str]:
    named = [("linear", labels) for labels in profile.linear] + [("finetune", labels) for labels in profile.finetuning]
    return [f"{kind}@{labels or 'all'}" for kind, labels in named]


def _find(records: Records, arm: str, seed: int) -> Mapping[str, Any] | None:
    return next((one for one in records if one["arm"] == arm and one["seed"] == seed), None)


def _scores(records: Records, arm: str, seeds: Sequence[int], measure: str) -> Scores:
    found = [record for seed in seeds if (record := _find(records, arm, seed)) is not None]
    domains = sorted({domain for record in found for domain in record["scores"]})
    return {domain: [record["scores"][domain][measure] for record in found] for domain in domains}


def _comparisons(records: Records, arms: Sequence[str], seeds: Sequence[int], measure: str) -> dict[str, Any]:
    """Compare A4 with every other arm. Holm's correction is over the pre-registered comparisons only."""
    if not seeds or "A4" not in arms:
        return {}
    found: dict[str, Any] = {}
    for arm in arms:
        common = [seed for seed in seeds if _find(records, arm, seed)]
        if arm == "A4" or not common:
            continue
        ours, theirs = (_scores(records, name, common, measure) for name in ("A4", arm))
        found[f"A4-{arm}"] = {"seeds": common, **_shown(compare(ours, theirs, STATISTICS_SEED))}
    adjusted = holm({name: found[name]["p_value"] for name in PRE_REGISTERED if name in found})
    for name, value in adjusted.items():
        found[name]["p_holm"] = value
    return found


def _shown(comparison: Comparison) -> dict[str, Any]:
    return {
        "differences": dict(comparison.differences),
        "wins": comparison.wins,
        "losses": comparison.losses,
        "median": comparison.median,
        "median_interval": [comparison.median_interval.low, comparison.median_interval.high],
        "p_value": comparison.p_value,
    }


def _left_out(records: Records, seeds: Sequence[int]) -> dict[str, Any]:
    """Compare A4 that never saw a domain with A1 on that domain, over the seeds that have all of them."""
    domains = sorted({one["arm"].removeprefix(LEFT_OUT) for one in records if one["arm"].startswith(LEFT_OUT)})
    usable = [seed for seed in seeds if domains and all(_find(records, LEFT_OUT + name, seed) for name in domains)]
    if not usable:
        return {}
    ours = {name: _scores(records, LEFT_OUT + name, usable, PRIMARY)[name] for name in domains}
    baseline = _scores(records, "A1", usable, PRIMARY)
    return {"seeds": usable, **_shown(compare(ours, {name: baseline[name] for name in domains}, STATISTICS_SEED))}


def _summary(primary: Mapping[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    first, second = primary.get("A4-A1"), primary.get("A4-A2")
    return {
        "wins": first and first["wins"],
        "domains": first and len(first["differences"]),
        "p_wilcoxon_A4_A1": first and first["p_value"],
        "median_diff_A4_A1": first and first["median"],
        "median_diff_A4_A2": second and second["median"],
        "leave_one_out_diff_A4_A1": left_out.get("median"),
        "worst_domain_diff_A4_A1": first and min(first["differences"].values()),
    }


def _means(records: Records, arms: Sequence[str], seeds: Sequence[int], measure: str) -> dict[str, Any]:
    """Return, for each arm, mean and interval over seeds of each domain, and the mean over domains."""
    result: dict[str, Any] = {}
    for arm in arms if seeds else ():
        scores = _scores(records, arm, seeds, measure)
        domains: dict[str, Any] = {}
        for domain, values in scores.items():
            interval = mean_interval(values)
            domains[domain] = {
                "mean": math.fsum(values) / len(values),
                "interval": None if interval is None else [interval.low, interval.high],
            }
        over = math.fsum(one["mean"] for one in domains.values()) / len(domains)
        result[arm] = {"domains": domains, "mean": over}
    return result


def _curves(records: Records, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, list[float]]:
    """Return the mean over domains and seeds after each round, at 10 labels a class."""
    curves: dict[str, list[float]] = {}
    for arm in arms:
        found = [record["curve"] for seed in seeds if (record := _find(records, arm, seed)) and record["curve"]]
        if found:
            rounds = zip(*([sum(point.values()) / len(point) for point in curve] for curve in found), strict=True)
            curves[arm] = [sum(values) / len(values) for values in rounds]
    return curves


def _seconds(records: Records, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return mean seconds a run: all training, the part on the server, evaluation."""
    result = {}
    for arm in arms:
        found = [record["seconds"] for seed in seeds if (record := _find(records, arm, seed))]
        if found:
            result[arm] = {key: round(sum(one[key] for one in found) / len(found), 1) for key in found[0]}
    return result


def _page(found: Mapping[str, Any]) -> str:
    """Return learning.md."""
    summary = found["summary"]
    lines = [
        "# The learning benchmark",
        "",
        "<!-- Written by `make benchmark-learning`. Do not edit. -->",
        "",
        f"Profile `{found['profile']}`, {len(found['seeds'])} seeds ({', '.join(map(str, found['seeds']))}), "
        f"{summary['domains']} domains, judged on the `{found['split']}` parts. Protocol and arms: "
        "[how it is judged](../concepts/learning.md#how-it-is-judged). Every number: [learning.json](learning.json).",
        "",
        *_verdict(found),
        "![A4 against A1 and A2, by domain](learning-differences.png)",
        "",
        "![Mean over the domains after each round](learning-curves.png)",
        "",
    ]
    for measure in found["means"]:
        lines += _table(found, measure)
    lines += _left_out_table(found)
    lines += _cost_table(found)
    lines += ["## Surroundings", "", "```json", json.dumps(_without_records(found), indent=1), "```", ""]
    return "\n".join(lines)


def _verdict(found: Mapping[str, Any]) -> list[str]:
    lines = ["## A4 (UMIM) against the others, linear probe at 10 labels a class", ""]
    lines += ["| against | seeds | wins | losses | median difference | 95 % interval | p | p (Holm) | worst domain |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name, one in found["comparisons"][PRIMARY].items():
        arm = name.removeprefix("A4-")
        low, high = one["median_interval"]
        holm_p = f"{one['p_holm']:.4f}" if "p_holm" in one else ""
        worst, least = min(one["differences"].items(), key=lambda item: item[1])
        lines.append(
            f"| {arm}: {TITLES[arm]} | {len(one['seeds'])} | {one['wins']} | {one['losses']} | {one['median']:+.4f} "
            f"| {low:+.4f} to {high:+.4f} | {one['p_value']:.4f} | {holm_p} | {worst} {least:+.4f} |"
        )
    return [*lines, ""]


def _table(found: Mapping[str, Any], measure: str) -> list[str]:
    means = found["means"][measure]
    domains = sorted(next(iter(means.values()))["domains"])
    kind, _, labels = measure.partition("@")
    title = {"linear": "Linear probe", "finetune": "Fine-tuning"}[kind]
    what = "all labels" if labels == "all" else f"{labels} labels a class"
    lines = [f"## {title}, {what}", "", "Macro-AUROC, or Dice for em and vessels; mean over seeds.", ""]
    lines += ["| arm | " + " | ".join(domains) + " | mean |", "|---" * (len(domains) + 2) + "|"]
    for arm, one in means.items():
        cells = [f"{one['domains'][domain]['mean']:.3f}" for domain in domains]
        lines.append(f"| {arm}: {TITLES[arm]} | {' | '.join(cells)} | {one['mean']:.4f} |")
    return [*lines, ""]


def _left_out_table(found: Mapping[str, Any]) -> list[str]:
    one = found["leave_one_out"]
    if not one:
        return ["## Domains that were left out", "", "Not run in this profile.", ""]
    seeds = ", ".join(map(str, one["seeds"]))
    lines = ["## Domains that were left out", ""]
    lines += [f"A4 trained without the domain, minus A1, on that domain; 10 labels a class; seeds {seeds}.", ""]
    lines += ["| domain | difference |", "|---|---|"]
    lines += [f"| {domain} | {value:+.4f} |" for domain, value in one["differences"].items()]
    lines += [f"| median | {one['median']:+.4f} (p {one['p_value']:.4f}, {one['wins']} wins) |", ""]
    return lines


def _cost_table(found: Mapping[str, Any]) -> list[str]:
    lines = ["## What the arms cost", "", "Mean seconds a seed, beyond the shared start, on one core.", ""]
    lines += ["| arm | training | of that on the server | evaluation |", "|---|---|---|---|"]
    for arm, one in found["seconds"].items():
        lines.append(f"| {arm}: {TITLES[arm]} | {one['training']} | {one['server']} | {one['evaluation']} |")
    return [*lines, ""]


def _without_records(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("hardware", "software", "packs", "recipe", "evaluation", "unfinished_seeds")}
