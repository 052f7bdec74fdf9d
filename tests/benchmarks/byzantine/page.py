"""The page docs/benchmarks/byzantine.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.benchmarks.byzantine.attacks import ATTACKS
from tests.benchmarks.byzantine.cells import mean, reporting, select
from tests.benchmarks.byzantine.experiment import ABSENT, CLIP_NORM, NOBODY, RULES, SELECTING, TRIMMING

COLUMNS = (NOBODY, *ATTACKS)

Found = Mapping[str, Any]


def page(found: Found) -> str:
    """Return the page of a result."""
    lines = [
        "# What lying sites do to each rule",
        "",
        "<!-- Written by `make benchmark-byzantine`. Do not edit. -->",
        "",
        *_setting(found),
        "![Accuracy by rule and attack](byzantine.png)",
        "",
        *_overview(found),
    ]
    for liars in found["liars"]:
        for alpha in found["alphas"]:
            lines += _accuracies(found, alpha, liars)
    return "\n".join([*lines, *_left_out(found), *_report(found), *_surroundings(found)])


def _setting(found: Found) -> Iterator[str]:
    federation, summary = found["federation"], found["summary"]
    yield (
        f"{federation['sites']} sites hold scikit-learn's digits, each class divided by a draw of Dirichlet(alpha). A "
        f"network of {federation['model_values']} values is trained in {federation['rounds']} rounds of "
        f"{federation['local_steps']} steps of SGD a site and merged by UMIM's engine. Every number is a mean over "
        f"{len(found['seeds'])} seeds: other divisions, liars and starts. It is a small task: it ranks rules and "
        "attacks, it says nothing about the accuracy of a hospital's model. Every number: "
        "[byzantine.json](byzantine.json); the rules: [aggregation](../concepts/aggregation.md)."
    )
    yield ""
    yield (
        f"The rules expect f liars (`byzantine: f`); fedavg expects none. `+clip`: `clipNorm: {CLIP_NORM:g}`. `+nnm`: "
        "`mixing: nearest-neighbors`. The liars know all honest changes. They send:"
    )
    yield ""
    for name, attack in ATTACKS.items():
        yield f"- `{name}`: {attack.title}."
    yield ""
    without = summary["fedavg_without_the_liars"]
    yield (
        f"Without any attack fedavg reaches {_percent(summary['fedavg_without_attack'])} %. The honest sites alone "
        f"reach {', '.join(f'{_percent(value)} % ({liars})' for liars, value in without.items())}: that is what a rule "
        "under attack is measured by. Scaled changes point where honest ones do: once they are clipped, they help."
    )
    yield ""


def _overview(found: Found) -> Iterator[str]:
    summary = found["summary"]
    yield "## Cost and worst case"
    yield ""
    yield (
        "Cost: how many points of accuracy below fedavg when nobody attacks but the rule expects f liars, mean over "
        "both divisions. Worst: the least accuracy of a model over all attacks and both divisions. No model: under "
        "another attack every round fails, see below."
    )
    yield ""
    names = [f"f={liars}" for liars in found["liars"]]
    yield _row(["rule", *(f"cost, {name}" for name in names), *(f"worst, {name}" for name in names)])
    yield _ruler(1 + 2 * len(names))
    for rule in RULES:
        cost, least = summary["cost_without_attack"][rule], summary["worst_accuracy"][rule]
        ends = (
            f"{_percent(least[name])}{', or no model' if rule in summary['no_model'][name] else ''}" for name in names
        )
        yield _row([rule, *(f"{100 * cost[name]:+.1f}" for name in names), *ends])
    yield ""
    if any(summary["no_model"].values()):
        yield from _no_model()


def _no_model() -> Iterator[str]:
    yield (
        "No model: an update that is not a number is excluded, and counts no more as one of the sites that krum and "
        "multi-krum need, 2 f + 3. With f = 2 of 8 sites they need 7, and 6 are left. The round fails, the last model "
        "stays."
    )
    yield ""


def _accuracies(found: Found, alpha: float, liars: int) -> Iterator[str]:
    yield f"## Accuracy in %, {liars} of {found['federation']['sites']} lie, Dirichlet({alpha})"
    yield ""
    yield _row(["rule", *COLUMNS])
    yield _ruler(1 + len(COLUMNS))
    for rule in RULES:
        scores = (_one(found, "accuracy", alpha, liars, attack, rule) for attack in COLUMNS)
        yield _row([rule, *map(_percent, scores)])
    absent = _percent(_one(found, "accuracy", alpha, liars, ABSENT, "fedavg"))
    yield _row(["fedavg of the honest alone", absent, *[""] * len(ATTACKS)])
    yield ""


def _left_out(found: Found) -> Iterator[str]:
    yield "## Who is left out"
    yield ""
    yield (
        "Share in % of honest sites (krum, multi-krum) or of honest values (trimmed-mean) that the rule leaves out, "
        "/ share of the liars' that it keeps. All without mixing, mean over both divisions. krum leaves out all "
        "but one site, multi-krum f sites and trimmed-mean 2 f values, whoever lies."
    )
    yield ""
    yield _row(["rule", "f", *COLUMNS])
    yield _ruler(2 + len(COLUMNS))
    for rule in (*SELECTING, TRIMMING):
        for liars in found["liars"]:
            pairs = (
                _pair(found["cells"], "honest_lost", "liars_kept", rule=rule, liars=liars, attack=attack)
                for attack in COLUMNS
            )
            yield _row([rule, str(liars), *pairs])
    yield ""


def _report(found: Found) -> Iterator[str]:
    yield "## Whom the report of outliers flags"
    yield ""
    yield (
        "The report never excludes. Share in % of honest sites that it flags / share of liars that it flags, over all "
        "rounds of all rules that know how the changes lie to each other, but fedavg's. A liar that sends what is "
        "not a number is excluded by the merge before."
    )
    yield ""
    cells = reporting(found["cells"])
    yield _row(["division", "f", *COLUMNS])
    yield _ruler(2 + len(COLUMNS))
    for alpha in found["alphas"]:
        for liars in found["liars"]:
            pairs = (
                _pair(cells, "honest_flagged", "liars_flagged", alpha=alpha, liars=liars, attack=attack)
                for attack in COLUMNS
            )
            yield _row([f"Dirichlet({alpha})", str(liars), *pairs])
    yield ""


def _pair(cells: Sequence[Mapping[str, Any]], first: str, second: str, **where: Any) -> str:
    parts = [select(cells, name, **where) for name in (first, second)]
    return " / ".join(f"{100 * mean(values):.0f}" if values else "-" for values in parts)


def _surroundings(found: Found) -> Iterator[str]:
    software = ", ".join(f"{name} {version}" for name, version in found["software"].items())
    yield "## Surroundings"
    yield ""
    hardware = f"{found['hardware']['processor']}, one thread, {found['cpu_seconds']} s of its time for everything"
    yield f"{hardware}. {software}."
    yield ""


def _one(found: Found, field: str, alpha: float, liars: int, attack: str, rule: str) -> float | None:
    values = select(found["cells"], field, alpha=alpha, liars=liars, attack=attack, rule=rule)
    return values[0] if values else None


def _percent(share: float | None) -> str:
    return "no model" if share is None else f"{100 * share:.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ruler(columns: int) -> str:
    return "|" + "---|" * columns
