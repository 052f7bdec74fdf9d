"""The whole audit, and its numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from umim.artifacts.manifests import software_versions
from umim.errors import ConfigError, DataError
from umim.evaluation.leakage.defences import Defence
from umim.evaluation.leakage.inversion import SCENARIOS, Gallery, Inversion, Reconstruction, invert
from umim.evaluation.leakage.membership import (
    Estimate,
    Membership,
    Site,
    Told,
    Usefulness,
    infer_membership,
    trainings_of,
)
from umim.evaluation.leakage.scores import GRID, LOW_FALSE_POSITIVES
from umim.evaluation.leakage.sides import draw_sides
from umim.training.site import Surroundings

DISTRIBUTIONS = ("numpy", "scikit-learn", "scipy", "timm", "torch", "umim")
FEWEST_MODELS = 4
FEWEST_IMAGES = 20


@dataclass(frozen=True)
class Audit:
    """What was found."""

    site: Site
    """What was audited."""
    defences: Sequence[Defence]
    """By which defences."""
    models: int
    """Models that were trained for membership inference."""
    inversion: Inversion
    """How hard the attacker tried to draw images."""
    membership: Sequence[Membership]
    """By defence and attack."""
    usefulness: Sequence[Usefulness]
    """By defence."""
    gallery: Gallery
    """By scenario, defence and attack."""


def units(defences: Sequence[Defence], models: int) -> int:
    """Return how often ``audit`` tells its progress."""
    return models * trainings_of(defences) + len(defences) + len(SCENARIOS) * len(defences)


def audit(
    site: Site,
    defences: Sequence[Defence],
    models: int,
    inversion: Inversion,
    work: Path,
    around: Surroundings,
    told: Told = lambda _: None,
) -> Audit:
    """Attack updates of a hospital's own images. ``work`` is an empty folder for checkpoints.

    ``models`` are trained on halves of the patients, see ``sides``; an even number from 4. Raises ConfigError for
    another number or an objective that needs labels that are not there, DataError for too few images or patients, and
    the errors of ``train_at_site``.
    """
    if models < FEWEST_MODELS or models % 2:
        raise ConfigError(f"models is {models}; allowed are even numbers from {FEWEST_MODELS}")
    if len(site.dataset) < FEWEST_IMAGES:
        raise DataError(f"there are {len(site.dataset)} images; the audit needs {FEWEST_IMAGES} or more")
    for defence in defences:
        if defence.training.objective != "mim" and site.dataset.task == "none":
            raise ConfigError(f"spec.training.objective {defence.training.objective} needs labels but the task is none")
    members = draw_sides(site.dataset, models, site.seed)
    found, useful = infer_membership(site, defences, members, work, around, told)
    gallery = invert(site, defences, inversion, around.runtime, told)
    return Audit(site, defences, models, inversion, found, useful, gallery)


def to_json(found: Audit, model: dict[str, Any], data: str, device: str) -> dict[str, Any]:
    """Return all numbers and what is needed to get them again. ``model`` and ``data`` say what was audited.

    Nothing of a single image or patient is in it, and no time: the same inputs give the same text on one machine.
    """
    dataset = found.site.dataset
    return {
        "model": model,
        "data": {
            "name": data,
            "task": dataset.task,
            "classes": len(dataset.classes),
            "images": len(dataset),
            "patients": dataset.patient_count,
        },
        "settings": {
            "seed": found.site.seed,
            "models": found.models,
            "lowFalsePositives": LOW_FALSE_POSITIVES,
            "inversion": asdict(found.inversion),
            "pool": found.gallery.pool,
            "defences": [
                {
                    "name": one.name,
                    "training": one.training.to_dict(),
                    "clipNorm": one.privacy.clip_norm,
                    "noiseMultiplier": one.privacy.noise_multiplier,
                }
                for one in found.defences
            ],
        },
        "device": device,
        "software": software_versions(DISTRIBUTIONS),
        "membership": {"falsePositives": list(GRID), "attacks": [_membership(one) for one in found.membership]},
        "usefulness": [_usefulness(one) for one in found.usefulness],
        "inversion": [_reconstruction(one) for one in found.gallery.rows],
    }


def _membership(one: Membership) -> dict[str, Any]:
    return {
        "defence": one.defence,
        "attack": one.attack,
        "auroc": _estimate(one.auroc),
        "truePositives": _estimate(one.true_positives),
        "curve": list(one.curve),
    }


def _usefulness(one: Usefulness) -> dict[str, Any]:
    return {
        "defence": one.defence,
        "scoreName": one.score_name,
        "score": None if one.score is None else _estimate(one.score),
        "trainedNorm": _norm(one.trained_norm),
        "releasedNorm": _norm(one.released_norm),
        "epsilon": None if one.epsilon is None else _norm(one.epsilon),
    }


def _reconstruction(one: Reconstruction) -> dict[str, Any]:
    return {
        "scenario": one.scenario,
        "defence": one.defence,
        "attack": one.attack,
        "images": one.images,
        "psnr": one.psnr,
        "ssim": one.ssim,
        "identified": one.identified,
    }


def _estimate(one: Estimate) -> dict[str, Any]:
    interval = one.interval
    return {
        "mean": one.mean,
        "interval": None if interval is None else asdict(interval),
        "values": list(one.values),
    }


def _norm(one: Estimate) -> dict[str, Any]:
    return {"mean": one.mean, "values": list(one.values)}
