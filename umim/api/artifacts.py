"""Manifests: what lies beside every artifact in the store. A manifest is the commit marker of its artifact."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from umim.api.base import (
    DNS_LABEL_PATTERN,
    INT64,
    ApiModel,
    Digest,
    FiniteFloat,
    Message,
    Metrics,
    ModelReference,
    Signature,
    Timestamp,
)
from umim.api.globalmodel import Classes, Contributor, SharedHead
from umim.api.hospital import Task
from umim.api.privacy import DifferentialPrivacyRecord
from umim.api.round import EncodingFormat


class TensorInfo(ApiModel):
    """Shape and type of one tensor."""

    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=16)]
    """Sizes of the dimensions."""
    dtype: Annotated[str, Field(pattern=r"^(BOOL|[UI](8|16|32|64)|F(16|32|64)|BF16)$")]
    """Type of the values, as safetensors names it."""


class TensorsFile(ApiModel):
    """A safetensors file in the store."""

    key: Annotated[str, Field(max_length=1024)]
    """Object key."""
    digest: Digest
    """sha256 of the file."""
    size_bytes: Annotated[int, Field(ge=0), INT64]
    """Size of the file in bytes."""
    tensors: Annotated[dict[str, TensorInfo], Field(max_length=100_000)]
    """Shape and type of every tensor by name."""


class HeadArtifact(ApiModel):
    """A task head that left a site with its update, because round and hospital share heads."""

    task_name: Annotated[str, Field(pattern=DNS_LABEL_PATTERN, max_length=63)]
    """Name of the task."""
    task: Task
    """What the head predicts."""
    classes: Classes
    """Class names in the order of the head's outputs."""
    file: TensorsFile
    """The tensors."""


class UpdateManifest(ApiModel):
    """The knowledge artifact of one site: what it learned, and nothing of its images."""

    kind: Literal["Update"] = "Update"
    round_uid: str
    """UID of the FederationRound."""
    site: str
    """The site as namespace.name."""
    attempt: Annotated[int, Field(ge=1)]
    """Attempt that made it."""
    parent_digest: Digest
    """sha256 of the model that the site started from."""
    architecture: str
    """timm name of the encoder."""
    image_size: int
    """Side of the square input in pixels."""
    encoding: EncodingFormat = "full"
    """How the tensors hold the update, see the round's spec.aggregation.encoding. full: the trained encoder's
    values."""
    file: TensorsFile
    """The tensors."""
    head: HeadArtifact | None = None
    """The task head. None: it stayed at the site."""
    samples: Annotated[int, Field(ge=1), INT64]
    """Number of training images."""
    metrics: Annotated[dict[Annotated[str, Field(max_length=128)], FiniteFloat], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Figures that the hospital allows to leave. They go into the round's status, so there may not be too many."""
    differential_privacy: DifferentialPrivacyRecord | None = None
    """With which differential privacy it was trained. None: with none."""
    seed: int
    """Seed of the training."""
    software: dict[str, str]
    """Versions of what made it, by name."""
    created: Timestamp
    """When it was committed."""
    signature: Signature | None = None
    """Of the hospital, over its ``Attestation``. None: the hospital has no key."""


class Attestation(ApiModel):
    """What a hospital says of one update with its signature. It stays with the model when the update is gone."""

    kind: Literal["Attestation"] = "Attestation"
    round_uid: str
    """UID of the FederationRound."""
    site: str
    """The site as namespace.name."""
    attempt: Annotated[int, Field(ge=1)]
    """Attempt that made it."""
    parent_digest: Digest
    """sha256 of the model that the site started from."""
    update_digest: Digest
    """sha256 of the update."""
    head_digest: Digest | None = None
    """sha256 of the task head that left with it."""
    samples: Annotated[int, Field(ge=1), INT64]
    """Number of training images."""
    manifest_digest: Digest
    """sha256 of the canonical bytes of the whole manifest."""
    signature: Signature
    """Of the hospital, over the canonical bytes of all the fields above."""


class ModelManifest(ApiModel):
    """One global model, stored under its digest."""

    kind: Literal["Model"] = "Model"
    architecture: str
    """timm name of the encoder."""
    image_size: int
    """Side of the square input in pixels."""
    strategy: str
    """Aggregation strategy, or init-random or init-mim for a start model."""
    file: TensorsFile
    """The tensors, named as in timm's state_dict of the encoder with num_classes=0."""
    parts: TensorsFile | None = None
    """The MIM decoder and shared heads. None: there are none."""
    heads: list[SharedHead] = Field(default_factory=list)
    """Shared heads in the parts, sorted by task name."""
    parent: ModelReference | None = None
    """The model that the sites started from."""
    round_uid: str
    """UID of the round that made it."""
    contributors: list[Contributor] = Field(default_factory=list)
    """Sites whose updates it holds, sorted by site."""
    attestations: list[Attestation] = Field(default_factory=list)
    """What the hospitals among them signed, sorted by site. Those without a key have none."""
    metrics: Metrics = Field(default_factory=dict)
    """Figures of the round, weighted by samples, and those of the server (server_...)."""
    seed: int
    """Seed of the round."""
    software: dict[str, str]
    """Versions of what made it, by name."""
    created: Timestamp
    """When it was published."""
    signature: Signature | None = None
    """Of the federation, over the canonical bytes of all the fields above. None: the federation has no key."""


ExclusionReason = Literal[
    "ManifestInvalid",
    "WrongRound",
    "WrongParent",
    "WrongArchitecture",
    "WrongEncoding",
    "DigestMismatch",
    "TensorsMismatch",
    "NotFinite",
    "NoSamples",
    "TooLarge",
    "SignatureInvalid",
]


class Exclusion(ApiModel):
    """An update that was left out of the model, and why."""

    site: str
    """The site as namespace.name."""
    reason: ExclusionReason
    """Cause from a fixed list."""
    message: Message
    """The cause as a sentence, naming the tensor or field."""


class HeadExclusion(ApiModel):
    """A head that was left out of the model, and why. The encoder that came with it counts all the same."""

    site: str
    """The site as namespace.name."""
    task_name: str
    """Name of the task."""
    message: Message
    """The cause as a sentence."""


class UpdateFigures(ApiModel):
    """How one update that is in the model lies beside the others. A report: it changes nothing in the merge."""

    site: str
    """The site as namespace.name."""
    norm: FiniteFloat
    """L2 norm of the update's change of the parent, as it came, before clipping and mixing."""
    cosine: FiniteFloat
    """Cosine between the change and the mean of the other sites' changes. 0 where one of them is 0."""
    outlier: bool
    """Whether it is unlike the others, see ``umim.aggregation.outliers``."""


class JobResult(ApiModel):
    """What an initialization or aggregation Job leaves for the operator: the commit marker of its work."""

    kind: Literal["Result"] = "Result"
    round_uid: str
    """UID of the round."""
    model_digest: Digest | None = None
    """sha256 of the published model. None: too few valid updates."""
    exclusions: list[Exclusion] = Field(default_factory=list)
    """Updates that were left out, sorted by site."""
    outliers: Annotated[list[UpdateFigures], Field(max_length=1000)] = Field(default_factory=list)
    """Norm and direction of each update that is in the model, sorted by site. Empty where the merge did not need
    them."""
    parts_digest: Digest | None = None
    """sha256 of the file with the model's other parts. None: it has none."""
    heads: list[SharedHead] = Field(default_factory=list)
    """Shared heads of the model, sorted by task name."""
    head_exclusions: list[HeadExclusion] = Field(default_factory=list)
    """Heads that were left out, sorted by site."""
    metrics: Metrics = Field(default_factory=dict)
    """Figures of the server (server_...)."""
    message: Message = ""
    """Why there is no model, for people."""
