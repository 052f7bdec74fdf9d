"""Judging one model on several data sets: what ``umim evaluate`` shows and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from umim.artifacts.manifests import software_versions
from umim.artifacts.tensors import read_safetensors
from umim.evaluation.features import extract
from umim.evaluation.finetune import Budget, finetune
from umim.evaluation.pack import Pack
from umim.evaluation.probe import ProbeResult, linear_probe
from umim.evaluation.statistics import Interval, mean_interval
from umim.models.encoder import Encoder
from umim.training.runtime import Runtime
from umim.training.site import loaded_encoder

DISTRIBUTIONS = ("numpy", "scikit-learn", "scipy", "timm", "torch", "umim")

ProbeKind = Literal["linear", "finetune"]


@dataclass(frozen=True)
class Settings:
    """How a model is judged."""

    probe: ProbeKind
    """linear: see ``linear_probe``; finetune: see ``finetune``."""
    labels_per_class: int | None
    """None: all."""
    draws: int | None
    """None: 5, with all labels 1."""
    seed: int
    """Of the draws of labels, and of fine-tuning."""


@dataclass(frozen=True)
class Verdict:
    """One model on one data set."""

    pack: Pack
    """The data set."""
    result: ProbeResult
    """Scores on its test part."""

    @property
    def interval(self) -> Interval | None:
        """How far the choice of the labels moves the mean: Student's interval over draws, cut to [0, 1].

        None for one draw.
        """
        found = mean_interval(self.result.scores)
        return None if found is None else Interval(max(0.0, found.low), min(1.0, found.high))


def load_model(path: Path, architecture: str, image_size: int, runtime: Runtime) -> Encoder:
    """Return an encoder with the tensors of a file, on the runtime's device.

    Raises ConfigError for the architecture or size, ArtifactError naming the first tensor that does not fit.
    """
    return loaded_encoder(architecture, image_size, read_safetensors(path)).to(runtime.device)


def judge(encoder: Encoder, pack: Pack, settings: Settings, runtime: Runtime) -> Verdict:
    """Judge a model on a pack's test part. ``encoder`` is on the runtime's device and stays as it is.

    Raises DataError when a class has fewer labels than are asked for.
    """
    labels, draws, seed = settings.labels_per_class, settings.draws, settings.seed
    if settings.probe == "finetune":
        return Verdict(pack, finetune(encoder, pack, runtime, labels_per_class=labels, draws=draws, seed=seed))
    features = extract(encoder, pack, encoder.image_size, "test", runtime)
    return Verdict(pack, linear_probe(features, labels, draws, seed))


def to_json(model: dict[str, Any], settings: Settings, verdicts: Sequence[Verdict], runtime: Runtime) -> dict[str, Any]:
    """Return all numbers, and what is needed to get them again. ``model`` says which model it was.

    No time is in it: the same model, data, settings and software give the same text on the same hardware.
    """
    return {
        "model": model,
        "settings": {
            "probe": settings.probe,
            "labelsPerClass": settings.labels_per_class or "all",
            "draws": settings.draws,
            "seed": settings.seed,
            "budget": asdict(Budget()) if settings.probe == "finetune" else None,
        },
        "device": runtime.device.type,
        "software": software_versions(DISTRIBUTIONS),
        "results": [_verdict_json(verdict) for verdict in verdicts],
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    pack, result, interval = verdict.pack, verdict.result, verdict.interval
    return {
        "dataset": pack.name,
        "digest": pack.digest,
        "task": pack.task,
        "classes": list(pack.classes),
        "trainImages": len(pack.train),
        "labelledImages": result.train_images,
        "testImages": result.test_images,
        "metric": result.metric,
        "score": result.score,
        "scores": list(result.scores),
        "interval": None if interval is None else asdict(interval),
    }
