"""From a round to the configuration of its Jobs, and from a manifest to the GlobalModel resource. Pure."""

from __future__ import annotations

from typing import Any

from umim import contract
from umim.api.artifacts import ModelManifest
from umim.api.figures import weighted_means
from umim.api.globalmodel import Contributor, GlobalModelSpec, RoundReference
from umim.api.hospital import DatasetSpec, HospitalSpec
from umim.api.jobs import (
    AggregateJobConfig,
    DatasetLocation,
    InitJobConfig,
    SiteJobConfig,
    UpdateReference,
)
from umim.api.round import FederationRoundStatus, OptimisationSpec, SiteStatus
from umim_operator.state import ModelPublication, RoundView


def _common(view: RoundView, attempt: int) -> dict[str, Any]:
    spec = view.valid_spec
    return {
        "round_namespace": view.namespace,
        "round_name": view.name,
        "round_uid": view.uid,
        "attempt": attempt,
        "architecture": spec.model.architecture,
        "image_size": spec.model.image_size,
    }


def dataset_location(data: DatasetSpec) -> DatasetLocation:
    """Return where the container finds a data set."""
    path = contract.DATA_MOUNT if data.path is None else f"{contract.DATA_MOUNT}/{data.path}"
    return DatasetLocation(path=path, format=data.format, task=data.task, labels_file=data.labels_file)


def site_config(
    view: RoundView, status: FederationRoundStatus, site: SiteStatus, hospital: HospitalSpec
) -> SiteJobConfig:
    """Return the configuration of a site's attempt."""
    if status.parent is None:
        raise ValueError("a site cannot start without a parent model")
    return SiteJobConfig(
        **_common(view, site.attempt),
        site=site.name,
        parent=status.parent,
        training=view.valid_spec.training,
        data=dataset_location(hospital.data),
        work_path=contract.WORK_MOUNT,
        privacy=hospital.privacy,
    )


def init_config(view: RoundView, attempt: int) -> InitJobConfig:
    """Return the configuration of the Job that makes the start model."""
    spec = view.valid_spec
    pretraining = spec.pretraining
    shared = pretraining if pretraining is not None else spec.training
    optimisation = {name: getattr(shared, name) for name in OptimisationSpec.model_fields}
    return InitJobConfig(
        **_common(view, attempt),
        init=spec.model.parent.init or "random",
        optimisation=OptimisationSpec(**optimisation),
        data=None if pretraining is None else dataset_location(pretraining.dataset),
        work_path=contract.WORK_MOUNT,
    )


def aggregate_config(view: RoundView, status: FederationRoundStatus, attempt: int) -> AggregateJobConfig:
    """Return the configuration of the aggregator: all committed updates, sorted by site."""
    if status.parent is None:
        raise ValueError("updates cannot be merged without a parent model")
    spec = view.valid_spec
    updates = [
        UpdateReference(site=site.name, attempt=site.attempt, digest=contributor.update_digest)
        for site, contributor in _delivered(status)
    ]
    return AggregateJobConfig(
        **_common(view, attempt),
        parent=status.parent,
        aggregation=spec.aggregation,
        updates=updates,
        quorum=spec.participants.quorum,
        seed=spec.training.seed,
    )


def _delivered(status: FederationRoundStatus) -> list[tuple[SiteStatus, Contributor]]:
    """Return the sites with a valid update and what each contributed, sorted by site."""
    return [
        (site, Contributor(site=site.name, update_digest=site.update_digest, samples=site.samples))
        for site in sorted(status.sites, key=lambda site: site.name)
        if site.phase == "Succeeded" and site.update_digest is not None and site.samples
    ]


def secret_names(view: RoundView, namespace: str) -> list[str]:
    """Return the names of all Secrets that the round may have left in a namespace, sorted.

    Each attempt's Secret is named like its Job. The attempt after the recorded one may have been launched, too.
    """
    status = view.status
    found: set[str] = set()
    for site in status.sites:
        if site.namespace == namespace:
            found |= _attempt_names(view, "site", site.name, site.attempt)
    if namespace == view.namespace:
        found |= _attempt_names(view, "init", "", status.initialization.attempt if status.initialization else 0)
        found |= _attempt_names(view, "aggregate", "", status.aggregation.attempt if status.aggregation else 0)
    return sorted(found)


def _attempt_names(view: RoundView, role: contract.Role, site: str, attempt: int) -> set[str]:
    return {contract.job_name(role, view.name, view.uid, site, number) for number in range(1, attempt + 2)}


def base_publication(view: RoundView, manifest: ModelManifest) -> ModelPublication:
    """Return the GlobalModel resource of a start model. Its name ends in the first digits of its digest."""
    return _publication("base", view, manifest, strategy=manifest.strategy, metrics=manifest.metrics)


def publication(view: RoundView, status: FederationRoundStatus, manifest: ModelManifest) -> ModelPublication:
    """Return the GlobalModel resource of a round's result. Its name ends in the first digits of its digest.

    The lineage is this round's, from its status. The manifest in the store belongs to the first round that made these
    very bytes, which may be another one.
    """
    sites = _delivered(status)
    return _publication(
        view.name,
        view,
        manifest,
        strategy=view.valid_spec.aggregation.strategy,
        metrics=weighted_means([(site.metrics, contributor.samples) for site, contributor in sites if site.metrics]),
        parent=status.parent,
        contributors=[contributor for _, contributor in sites],
    )


def _publication(stem: str, view: RoundView, manifest: ModelManifest, **lineage: Any) -> ModelPublication:
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
            **lineage,
        ),
    )
