"""From a round to the configuration of its Jobs. Pure; the operator and the simulation share it."""

from __future__ import annotations

from typing import Any, Protocol

from umim import contract
from umim.api.globalmodel import Contributor
from umim.api.hospital import DatasetSpec, HospitalSpec
from umim.api.jobs import (
    AggregateJobConfig,
    DatasetLocation,
    InitJobConfig,
    SiteJobConfig,
    UpdateReference,
)
from umim.api.round import FederationRoundSpec, FederationRoundStatus, OptimisationSpec, SiteStatus


class RoundSource(Protocol):
    """One FederationRound: its names and a spec that parses."""

    @property
    def namespace(self) -> str:
        """Namespace of the round."""

    @property
    def name(self) -> str:
        """Name of the round."""

    @property
    def uid(self) -> str:
        """UID of the round."""

    @property
    def valid_spec(self) -> FederationRoundSpec:
        """The spec."""


def _common(view: RoundSource, attempt: int) -> dict[str, Any]:
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
    return DatasetLocation(
        path=path, format=data.format, task=data.task, task_name=data.task_name, labels_file=data.labels_file
    )


def server_images(spec: FederationRoundSpec) -> DatasetLocation | None:
    """Return where the container finds the server's images, or None where there are none."""
    return None if spec.server_dataset is None else dataset_location(spec.server_dataset)


def site_config(
    view: RoundSource, status: FederationRoundStatus, site: SiteStatus, hospital: HospitalSpec
) -> SiteJobConfig:
    """Return the configuration of a site's attempt."""
    if status.parent is None:
        raise ValueError("a site cannot start without a parent model")
    return SiteJobConfig(
        **_common(view, site.attempt),
        site=site.name,
        parent=status.parent,
        training=view.valid_spec.training,
        encoding=view.valid_spec.aggregation.encoding,
        data=dataset_location(hospital.data),
        work_path=contract.WORK_MOUNT,
        privacy=hospital.privacy,
    )


def init_config(view: RoundSource, attempt: int) -> InitJobConfig:
    """Return the configuration of the Job that makes the start model."""
    spec = view.valid_spec
    pretraining = spec.pretraining
    shared = pretraining if pretraining is not None else spec.training
    optimisation = {name: getattr(shared, name) for name in OptimisationSpec.model_fields}
    return InitJobConfig(
        **_common(view, attempt),
        init=spec.model.parent.init or "random",
        optimisation=OptimisationSpec(**optimisation),
        data=None if pretraining is None else server_images(spec),
        work_path=contract.WORK_MOUNT,
    )


def aggregate_config(view: RoundSource, status: FederationRoundStatus, attempt: int) -> AggregateJobConfig:
    """Return the configuration of the aggregator: all committed updates, sorted by site."""
    if status.parent is None:
        raise ValueError("updates cannot be merged without a parent model")
    spec = view.valid_spec
    shared = spec.training.heads == "shared"
    updates = [
        UpdateReference(
            site=site.name,
            attempt=site.attempt,
            digest=contributor.update_digest,
            head_digest=site.head_digest if shared else None,
            public_key=site.public_key,
        )
        for site, contributor in delivered(status)
    ]
    return AggregateJobConfig(
        **_common(view, attempt),
        parent=status.parent,
        aggregation=spec.aggregation,
        updates=updates,
        quorum=spec.participants.quorum,
        seed=spec.training.seed,
        distillation=spec.distillation,
        data=server_images(spec),
        work_path=contract.WORK_MOUNT,
    )


def delivered(status: FederationRoundStatus) -> list[tuple[SiteStatus, Contributor]]:
    """Return the sites with a valid update and what each contributed, sorted by site."""
    return [
        (
            site,
            Contributor(
                site=site.name,
                update_digest=site.update_digest,
                samples=site.samples,
                differential_privacy=site.differential_privacy,
            ),
        )
        for site in sorted(status.sites, key=lambda site: site.name)
        if site.phase == "Succeeded" and site.update_digest is not None and site.samples
    ]
