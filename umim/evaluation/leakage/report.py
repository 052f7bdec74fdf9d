"""The audit's page, from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

PICTURE = "reconstructions.png"
CURVES = "membership.png"


def page(found: Found) -> str:
    """Return report.md."""
    model, data, settings = found["model"], found["data"], found["settings"]
    lines = [
        "# Leakage audit",
        "",
        f"{data['images']} images of {data['patients']} patients ({data['name']}, {data['task']}); model "
        f"{model['name']} ({model['architecture']}, {model['imageSize']} pixels). Seed {settings['seed']}. Every "
        "number: report.json. How to read it: docs/audit-leakage.md.",
        "",
        "An attack that fails here is no proof: others may exist. An attack that succeeds is one.",
        "",
        *_defences(settings["defences"]),
        "",
        "## Was an image trained on?",
        "",
        f"{settings['models']} models, each trained on half of the patients, attacked one by one. Mean over models, in "
        "brackets 95 % over models. Guessing: AUROC 0.5, true positives 1 %. The attacker is given the site's head.",
        "",
        *_membership(found["membership"]["attacks"]),
        "",
        f"![True positives over false positives]({CURVES})",
        "",
        "What the updates are worth, on images that they were not trained on, and how large they are:",
        "",
        *_usefulness(found["usefulness"]),
        "",
        "## Can an image be drawn?",
        "",
        "Updates of one image or four, the worst case. PSNR in dB, SSIM up to 1. Recognised: the reconstruction is "
        f"more like its image than like any other of {settings['pool']}; guessing reaches {1 / settings['pool']:.0%}.",
        "",
        *_inversion(found["inversion"]),
    ]

    lines += ["", f"![Originals and reconstructions]({PICTURE})"]
    software = ", ".join(f"{name} {version}" for name, version in sorted(found["software"].items()))
    return "\n".join([*lines, "", f"Computed on {found['device']}: {software}.", ""])


def estimate(one: Found, form: str = ".2f") -> str:
    """Return a mean with its interval, where it has one."""
    interval = one["interval"]
    mean = format(one["mean"], form)
    return mean if interval is None else f"{mean} ({interval['low']:{form}} to {interval['high']:{form}})"


def _defences(rows: Sequence[Found]) -> list[str]:
    table = [
        [
            one["name"],
            "-" if one["clipNorm"] is None else f"{one['clipNorm']:g}",
            f"{one['noiseMultiplier']:g}",
            _terms(one["training"].get("differentialPrivacy")),
            f"{one['training']['objective']}, {one['training']['epochs']} epochs, batches of "
            f"{one['training']['batchSize']}",
        ]
        for one in rows
    ]
    return _table(["defence", "clipNorm", "noiseMultiplier", "DP-SGD", "training"], table)


def _terms(asked: Found | None) -> str:
    if asked is None:
        return "-"
    epsilon, noise = asked.get("targetEpsilon"), asked.get("noiseMultiplier")
    goal = f"noiseMultiplier {noise:g}" if epsilon is None else f"epsilon {epsilon:g}"
    return f"{goal}, delta {asked['delta']:g}, maxGradNorm {asked['maxGradNorm']:g}"


def _membership(rows: Sequence[Found]) -> list[str]:
    table = [
        [one["defence"], one["attack"], estimate(one["auroc"]), estimate(one["truePositives"], ".1%")] for one in rows
    ]
    return _table(["defence", "attack", "AUROC", "true positives at 1 % false ones"], table)


def _usefulness(rows: Sequence[Found]) -> list[str]:
    table = [
        [
            one["defence"],
            "-" if one["score"] is None else f"{one['scoreName']} {estimate(one['score'])}",
            f"{one['trainedNorm']['mean']:.3g}",
            f"{one['releasedNorm']['mean']:.3g}",
            "no bound" if one["epsilon"] is None else f"{one['epsilon']['mean']:.3g}",
        ]
        for one in rows
    ]
    return _table(["defence", "score", "norm of the update", "norm of what leaves", "epsilon"], table)


def _inversion(rows: Sequence[Found]) -> list[str]:
    table = [
        [
            one["scenario"],
            one["defence"],
            one["attack"],
            f"{one['psnr']:.1f}",
            f"{one['ssim']:.2f}",
            f"{one['identified']:.0%} of {one['images']}",
        ]
        for one in rows
    ]
    return _table(["update", "defence", "attack", "PSNR", "SSIM", "recognised"], table)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
