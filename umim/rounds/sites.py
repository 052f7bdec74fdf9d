"""What becomes of a site's entry in a round's status. Pure; the operator and the simulation share it."""

from __future__ import annotations

from umim.api.artifacts import JobResult, UpdateManifest
from umim.api.round import SiteStatus

LONGEST_MESSAGE = 1024


def cut(message: str, limit: int = LONGEST_MESSAGE) -> str:
    """Return the message within the length that the CRD allows."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


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
        }
    )


def judged(site: SiteStatus, result: JobResult) -> SiteStatus:
    """Note what the aggregator left out of this site's update: all of it, or its head alone."""
    for exclusion in result.exclusions:
        if exclusion.site == site.name:
            update = {"phase": "Excluded", "reason": exclusion.reason, "message": cut(exclusion.message)}
            return site.model_copy(update=update)
    for head in result.head_exclusions:
        if head.site == site.name:
            text = f"The head of task {head.task_name} was left out: {head.message}"
            return site.model_copy(update={"message": cut(text)})
    return site
