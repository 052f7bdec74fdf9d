"""What becomes of a site's entry in a round's status. Pure; the operator and the simulation share it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from umim.api.artifacts import JobResult, UpdateFigures, UpdateManifest
from umim.api.base import shortened
from umim.api.round import SiteStatus


def with_update(site: SiteStatus, update: UpdateManifest) -> SiteStatus:
    """Return the entry of a site that has committed an update."""
    return site.model_copy(
        update={
            "phase": "Succeeded",
            "message": None,
            "retry_time": None,
            "update_digest": update.file.digest,
            "head_digest": None if update.head is None else update.head.file.digest,
            "samples": update.samples,
            "metrics": update.metrics or None,
            "differential_privacy": update.differential_privacy,
        }
    )


def judged(site: SiteStatus, result: JobResult) -> SiteStatus:
    """Note what the aggregator says of this site's update: left out, or its head alone, or unlike the others."""
    for exclusion in result.exclusions:
        if exclusion.site == site.name:
            update = {"phase": "Excluded", "reason": exclusion.reason, "message": shortened(exclusion.message)}
            return site.model_copy(update=update)
    texts = []
    for figures in result.outliers:
        if figures.site == site.name:
            told = {"update_norm": figures.norm, "update_cosine": figures.cosine, "outlier": figures.outlier}
            site = site.model_copy(update=told)
            texts += [_unlike(figures, result.outliers)] if figures.outlier else []
    for head in result.head_exclusions:
        if head.site == site.name:
            texts.append(f"The head of task {head.task_name} was left out: {head.message}")
    return site.model_copy(update={"message": shortened(" ".join(texts))}) if texts else site


def _unlike(figures: UpdateFigures, of_all: Sequence[UpdateFigures]) -> str:
    """Return a sentence about an outlier, with its norm beside the median of all norms."""
    middle = median(one.norm for one in of_all)
    times = f", {figures.norm / middle:.3g} times the median" if middle > 0 else ""
    return (
        f"The update looks unlike the others: its norm is {figures.norm:.3g}{times}, "
        f"its cosine to the mean of the others {figures.cosine:.2f}."
    )
