"""Configuration of the Jobs: what the operator writes into a Pod and an entrypoint reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from umim.api.base import ApiModel, Digest, DnsLabel, DnsSubdomain, ModelReference, PublicKey
from umim.api.hospital import DataFormat, HospitalSpec, PrivacySpec, Task
from umim.api.round import AggregationSpec, DistillationSpec, EncodingSpec, OptimisationSpec, ParentInit, TrainingSpec


class DatasetLocation(ApiModel):
    """A data set inside the container."""

    path: str
    """Absolute path of the file or folder."""
    format: DataFormat
    """How to read it."""
    task: Task
    """What the labels are."""
    task_name: str | None = None
    """Name of the task, for shared heads."""
    labels_file: str | None = None
    """CSV file with labels, relative to path."""


class JobConfig(ApiModel):
    """What every Job knows of its round."""

    round_namespace: str
    """Namespace of the FederationRound."""
    round_name: str
    """Name of the FederationRound."""
    round_uid: str
    """UID of the FederationRound."""
    attempt: Annotated[int, Field(ge=1)]
    """Number of this attempt."""
    architecture: str
    """timm name of the encoder."""
    image_size: int
    """Side of the square input in pixels."""


class SiteJobConfig(JobConfig):
    """Training at one site."""

    kind: Literal["Site"] = "Site"
    site: str
    """The site as namespace.name."""
    parent: ModelReference
    """The model to start from."""
    training: TrainingSpec
    """What to optimise."""
    encoding: EncodingSpec = EncodingSpec()
    """How to write the update."""
    data: DatasetLocation
    """The private images."""
    work_path: str
    """Absolute path of a writable folder that outlives the Pod, for checkpoints."""
    privacy: PrivacySpec
    """The hospital's privacy floor."""


class HospitalPolicy(ApiModel):
    """The hospital's own word, mounted into its Jobs from a ConfigMap that the operator cannot write."""

    namespace: DnsLabel
    """Namespace of the Hospital."""
    name: DnsSubdomain
    """Name of the Hospital."""
    spec: HospitalSpec
    """As in the Hospital resource. What the operator configures may be stricter, never looser."""


class InitJobConfig(JobConfig):
    """Making the start model of a round."""

    kind: Literal["Init"] = "Init"
    init: ParentInit
    """random or mim."""
    optimisation: OptimisationSpec
    """How to pretrain; only its seed is used for random."""
    data: DatasetLocation | None = None
    """The server's unlabelled images, for mim."""
    work_path: str
    """Absolute path of a folder for checkpoints."""


class UpdateReference(ApiModel):
    """One committed update, as the operator saw it."""

    site: str
    """The site as namespace.name."""
    attempt: Annotated[int, Field(ge=1)]
    """Attempt that committed it."""
    digest: Digest
    """sha256 of the tensors file."""
    head_digest: Digest | None = None
    """sha256 of the head's tensors file. None: no head left."""
    public_key: PublicKey | None = None
    """Public key of the hospital. With it the manifest must carry its signature."""


class AggregateJobConfig(JobConfig):
    """Merging the updates of a round."""

    kind: Literal["Aggregate"] = "Aggregate"
    parent: ModelReference
    """The model that the sites started from."""
    aggregation: AggregationSpec
    """How to merge."""
    updates: Annotated[list[UpdateReference], Field(min_length=1, max_length=1000)]
    """Committed updates, sorted by site."""
    quorum: Annotated[int, Field(ge=1)]
    """Fewest valid updates."""
    seed: int
    """Seed of the round."""
    distillation: DistillationSpec | None = None
    """What to learn after the merge."""
    data: DatasetLocation | None = None
    """The server's unlabelled images."""
    work_path: str
    """Absolute path of a folder for downloads and checkpoints."""
