"""From a manifest to the GlobalModel resource. Pure; the operator and the simulation share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from umim.api.artifacts import JobResult, ModelManifest
from umim.api.base import ModelReference
from umim.api.figures import weighted_means
from umim.api.globalmodel import GlobalModelSpec, RoundReference
from umim.api.round import FederationRoundStatus
from umim.rounds.configs import RoundSource, delivered


@dataclass(frozen=True)
class ModelPublication:
    """A GlobalModel resource to create."""

    name: str
    spec: GlobalModelSpec


def base_publication(view: RoundSource, manifest: ModelManifest, result: JobResult) -> ModelPublication:
    """Return the GlobalModel resource of a start model. Its name ends in the first digits of its digest."""
    return _publication("base", view, manifest, result, strategy=manifest.strategy, metrics=manifest.metrics)


def publication(
    view: RoundSource, status: FederationRoundStatus, manifest: ModelManifest, result: JobResult
) -> ModelPublication:
    """Return the GlobalModel resource of a round's result. Its name ends in the first digits of its digest.

    The lineage is this round's, from its status and the aggregator's result. The manifest in the store belongs to the
    first round that made these very bytes, which may be another one.
    """
    sites = delivered(status)
    figures = weighted_means([(site.metrics, contributor.samples) for site, contributor in sites if site.metrics])
    return _publication(
        view.name,
        view,
        manifest,
        result,
        strategy=view.valid_spec.aggregation.strategy,
        metrics=figures | result.metrics,
        parent=status.parent,
        contributors=[contributor for _, contributor in sites],
    )


def reference(publication: ModelPublication) -> ModelReference:
    """Return how a status, and the next round, names the model."""
    spec = publication.spec
    return ModelReference(name=publication.name, digest=spec.digest, parts_digest=spec.parts_digest)


def _publication(
    stem: str, view: RoundSource, manifest: ModelManifest, result: JobResult, **lineage: Any
) -> ModelPublication:
    return ModelPublication(
        name=f"{stem}-{manifest.file.digest[:8]}",
        spec=GlobalModelSpec(
            digest=manifest.file.digest,
            object_key=manifest.file.key,
            size_bytes=manifest.file.size_bytes,
            architecture=manifest.architecture,
            image_size=manifest.image_size,
            round=RoundReference(name=view.name, uid=view.uid),
            created=manifest.created,
            parts_digest=result.parts_digest,
            heads=result.heads,
            signature=manifest.signature,
            **lineage,
        ),
    )
