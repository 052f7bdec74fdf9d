"""From the records of all measurements to one JSON file, a page and its plots. Nothing is measured here."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.aggregation import plots
from tests.benchmarks.aggregation.plan import GROWTH, LIMIT, LONG_SECONDS, OURS, Group, Profile

Records = Sequence[Mapping[str, Any]]
Row = dict[str, Any]

TITLES = {"bare": "in memory", "file": "file to file"}


def result(profile: Profile, records: Records, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole content of aggregation.json. What was not measured is None."""
    groups = [{**_about(group), "rows": _rows(group, records)} for group in profile.groups]
    growth = _growth(profile, records)
    return {
        "summary": _summary(profile, groups, growth),
        "targets": _targets(profile, groups),
        **surroundings,
        "repeats": len({record["repeat"] for record in records}),
        "groups": groups,
        "growth": growth,
        "records": list(records),
    }


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write aggregation.json, aggregation.md and the plots."""
    (folder / "aggregation.json").write_text(json.dumps(found, indent=1) + "\n")
    plots.draw(found, folder)
    (folder / "aggregation.md").write_text(_page(found))


def _about(group: Group) -> Row:
    return {
        "architecture": group.architecture,
        "count": group.count,
        "rule": group.rule,
        "mode": group.mode,
        "byzantine": group.byzantine,
    }


def _rows(group: Group, records: Records) -> list[Row]:
    """Return one row for each contender, the fastest first, then those that could not be measured."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["repeat"]):
        if all(record[key] == getattr(group, key) for key in ("architecture", "count", "rule", "mode")):
            runs.setdefault((record["system"], record["path"]), []).append(record)
    rows = [_row(system, path, found) for (system, path), found in runs.items()]
    return sorted(rows, key=lambda row: (row["seconds"] is None, row["seconds"] or 0.0))


def _row(system: str, path: str, records: Records) -> Row:
    good = [record for record in records if "problem" not in record]
    return {
        "system": system,
        "path": path,
        "seconds": statistics.median(record["seconds"] for record in good) if good else None,
        "seconds_of_each": [record["seconds"] for record in good],
        "cpu_seconds": statistics.median(record["cpu_seconds"] for record in good) if good else None,
        "peak_bytes": max((record["peak_bytes"] for record in good), default=None),
        "peak_bytes_above_start": max((record["peak_bytes"] - record["before_bytes"] for record in good), default=None),
        "largest_error": next((record["largest_error"] for record in good if "largest_error" in record), None),
        "problem": next((record["problem"] for record in records if "problem" in record and not good), None),
    }


def _growth(profile: Profile, records: Records) -> list[Row]:
    found = []
    for count in profile.growth:
        rows = _rows(Group(profile.main, count, "mean", "file"), records)
        row = _find(rows, OURS, GROWTH)
        if row is not None:
            found.append({"count": count, "seconds": row["seconds"], "peak_bytes": row["peak_bytes"]})
    return found


def _find(rows: Sequence[Row], system: str, path: str) -> Row | None:
    return next((row for row in rows if (row["system"], row["path"]) == (system, path) and row["seconds"]), None)


def _group(profile: Profile, groups: Sequence[Row], rule: str, mode: str) -> Sequence[Row]:
    wanted = (profile.main, rule, mode)
    return next((one["rows"] for one in groups if (one["architecture"], one["rule"], one["mode"]) == wanted), ())


def _speedup(rows: Sequence[Row], systems: Sequence[str] = ()) -> float | None:
    """Return how many times ours is as fast as the fastest peer (of these), both without verification."""
    plain = (row["seconds"] for row in rows if row["system"] == OURS and row["path"] not in ("verified", GROWTH))
    ours = next(plain, None)
    peers = [
        row["seconds"]
        for row in rows
        if row["system"] not in (OURS, LIMIT) and row["seconds"] and (not systems or row["system"] in systems)
    ]
    return min(peers) / ours if ours and peers else None


def _summary(profile: Profile, groups: Sequence[Row], growth: Sequence[Row]) -> dict[str, float | None]:
    files = _group(profile, groups, "mean", "file")
    verified, hashed = _find(files, OURS, "verified"), _find(files, LIMIT, "sha256")
    peaks = {row["count"]: row["peak_bytes"] for row in growth}
    least, most = peaks.get(min(profile.growth)), peaks.get(max(profile.growth))
    return {
        "mean_speedup_vs_best_peer": _speedup(_group(profile, groups, "mean", "bare")),
        "file_to_file_speedup_vs_best_peer": _speedup(files),
        "median_speedup_vs_best_peer": _speedup(_group(profile, groups, "median", "bare")),
        "mean_time_over_hash_time": verified["seconds"] / hashed["seconds"] if verified and hashed else None,
        f"rss_{max(profile.growth)}_over_rss_{min(profile.growth)}": most / least if most and least else None,
    }


def _targets(profile: Profile, groups: Sequence[Row]) -> dict[str, float | None]:
    """Return the other speedups, bare: against flwr's fastest mean, and of the other robust rules."""
    return {
        "mean_speedup_vs_flwr": _speedup(_group(profile, groups, "mean", "bare"), ("flwr",)),
        "trimmed_mean_speedup_vs_best_peer": _speedup(_group(profile, groups, "trimmed-mean", "bare")),
        "krum_speedup_vs_best_peer": _speedup(_group(profile, groups, "krum", "bare")),
    }


def _page(found: Mapping[str, Any]) -> str:
    """Return aggregation.md."""
    lines = [
        "# The aggregation benchmark",
        "",
        "<!-- Written by `make benchmark-aggregation`. Do not edit. -->",
        "",
        f"Profile `{found['profile']}`, on {found['hardware']['processor']}, {found['hardware']['cores']} cores. "
        "Every number: [aggregation.json](aggregation.json).",
        "",
        *_figures(found),
        "![Mean: seconds of each](aggregation-mean.png)",
        "",
        "![Time and memory by the number of updates](aggregation-growth.png)",
        "",
        *_method(found),
    ]
    for group in found["groups"]:
        lines += _table(group)
    lines += _growth_table(found["growth"])
    lines += _peers(found["peers"])
    lines += ["## Surroundings", "", "```json"]
    lines += [json.dumps({key: found[key] for key in ("hardware", "software", "peers")}, indent=1), "```", ""]
    return "\n".join(lines)


def _figures(found: Mapping[str, Any]) -> list[str]:
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| `{name}` | {_number(value)} |" for name, value in {**found["summary"], **found["targets"]}.items()]
    return [*lines, ""]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _repeats(count: int) -> str:
    if count == 1:
        return "each was measured once."
    return f"the median of {count} repeats counts, or one run where it takes {LONG_SECONDS:.0f} s."


def _method(found: Mapping[str, Any]) -> list[str]:
    return [
        "## How it is measured",
        "",
        "- A parent and updates of random float32 values in the shapes of the network. Each measurement runs in a "
        "fresh process, with the files in the page cache and the threads that the system chooses. Contenders take "
        f"turns; {_repeats(found['repeats'])}",
        "- *In memory*: from updates to a model, both in memory, in the form in which the system's own server holds "
        "them. Reading is not timed.",
        "- *File to file*: from safetensors files to a safetensors file, without waiting for the disk. All peers use "
        "the safetensors library; a peer that takes one update after another gets them so. Starting the process and "
        "its imports is not timed.",
        "- *Of the processor*: seconds summed over the threads of the process, which wait for nobody.",
        "- Memory is the peak of resident memory of the process while it works; *above* is over what was resident "
        "before, which in memory includes all updates.",
        "- The error is the largest absolute difference from the same rule in float64.",
        "- *verified* also computes the sha256 of every update and of the model and compares; peers do not verify. "
        "*unverified* hashes nothing. Both map the files, as the peers' library does: two to four megabytes of each "
        "are resident. *stored* verifies, and reads as the platform's Jobs do: in ranges, from a store, here a folder."
        " `limit sha256` hashes the same files with hashlib on two threads, `limit cat` reads them with cat.",
        "- More updates than the distinct ones on the disk are hard links: each is opened, read and hashed for itself.",
        "- Trimmed mean and Krum: `byzantine` as in the title of the table. NVIDIA FLARE has neither these nor the "
        "median, OpenFL has no trimmed mean and no Krum.",
        "",
    ]


def _table(group: Mapping[str, Any]) -> list[str]:
    rule = group["rule"].replace("-", " ").capitalize()
    title = f"{rule} of {group['count']} updates of {group['architecture']}, {TITLES[group['mode']]}"
    if group["rule"] in ("trimmed-mean", "krum"):
        title += f", byzantine {group['byzantine']}"
    lines = [f"## {title}", ""]
    lines += ["| | seconds | of the processor | peak GB | above GB | largest error |", "|---|---|---|---|---|---|"]
    for row in group["rows"]:
        name = f"{row['system']} {row['path']}"
        if row["seconds"] is None:
            lines.append(f"| {name} | {row['problem']} | | | | |")
            continue
        error = "" if row["largest_error"] is None else f"{row['largest_error']:.1e}"
        peaks = f"{row['peak_bytes'] / 1e9:.2f} | {row['peak_bytes_above_start'] / 1e9:.2f}"
        lines.append(f"| {name} | {row['seconds']:.3g} | {row['cpu_seconds']:.3g} | {peaks} | {error} |")
    return [*lines, ""]


def _growth_table(rows: Sequence[Row]) -> list[str]:
    how = "Mean, with verification, read in ranges as the platform's Jobs read from the store (*stored*)."
    lines = ["## Growth", "", how, ""]
    lines += ["| updates | seconds | seconds an update | peak MB |", "|---|---|---|---|"]
    for row in rows:
        each = row["seconds"] / row["count"]
        lines.append(f"| {row['count']} | {row['seconds']:.3g} | {each:.3f} | {row['peak_bytes'] / 1e6:.0f} |")
    return [*lines, ""]


def _peers(peers: Mapping[str, Any]) -> list[str]:
    missing = [f"- {name}: {one['problem']}" for name, one in peers.items() if one["problem"]]
    return ["## Peers that could not be installed", "", *missing, ""] if missing else []
