"""The GlobalModel resource: an immutable registry entry of one published model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from umim.api.base import DNS_LABEL_PATTERN, ApiModel, Digest, Metrics, ModelReference, Signature, Timestamp, cel_rules
from umim.api.hospital import Task
from umim.api.privacy import DifferentialPrivacyRecord

MOST_HEADS = 64
"""Shared heads of a model."""
MOST_CLASSES = 256
"""Classes of a shared head."""
LONGEST_CLASS = 128
"""Characters in the name of a class of a shared head."""
Classes = Annotated[list[Annotated[str, Field(max_length=LONGEST_CLASS)]], Field(max_length=MOST_CLASSES)]


class Contributor(ApiModel):
    """One site whose update went into the model."""

    site: Annotated[str, Field(max_length=320)]
    """The site as namespace.name."""
    update_digest: Digest
    """sha256 of its update."""
    samples: Annotated[int, Field(ge=1)]
    """Number of training images behind the update: its weight in a weighted mean."""
    differential_privacy: DifferentialPrivacyRecord | None = None
    """With which differential privacy the update was trained. Absent: with none."""


class SharedHead(ApiModel):
    """A task head that is published with a model, merged from the heads of the sites that agree on the task."""

    task_name: Annotated[str, Field(pattern=DNS_LABEL_PATTERN, max_length=63)]
    """Name of the task, as spec.data.taskName of the Hospitals."""
    task: Task
    """What the head predicts."""
    classes: Classes
    """Class names in the order of the head's outputs."""
    sites: Annotated[list[Annotated[str, Field(max_length=320)]], Field(max_length=1000)] = Field(default_factory=list)
    """Sites whose heads it was merged from, sorted."""


class RoundReference(ApiModel):
    """The round that made the model."""

    name: str
    """Name of the FederationRound, in the model's namespace."""
    uid: str
    """UID of the FederationRound."""


class GlobalModelSpec(ApiModel):
    """Where the model lies and where it comes from."""

    digest: Digest
    """sha256 of the tensors file: the model's identity."""
    object_key: Annotated[str, Field(max_length=1024)]
    """Key of the tensors file (safetensors) in the store's bucket."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the tensors file in bytes."""
    architecture: Annotated[str, Field(max_length=128)]
    """timm name of the encoder."""
    image_size: Annotated[int, Field(ge=16, le=2048)]
    """Side of the square input in pixels."""
    strategy: Annotated[str, Field(max_length=64)]
    """How it was made: an aggregation strategy, or init-random or init-mim for a start model."""
    parent: ModelReference | None = None
    """The model that the sites started from. Absent for a start model."""
    round: RoundReference
    """The round that made it."""
    parts_digest: Digest | None = None
    """sha256 of the file with its other parts, the MIM decoder and shared heads. Absent: it has none."""
    heads: Annotated[list[SharedHead], Field(max_length=MOST_HEADS)] = Field(default_factory=list)
    """Shared heads, sorted by task name. Their tensors are in the parts."""
    contributors: Annotated[list[Contributor], Field(max_length=1000)] = Field(default_factory=list)
    """Sites whose updates it holds, sorted by site."""
    metrics: Metrics = Field(default_factory=dict)
    """Figures of the round, weighted over the sites by samples, and those of the server (server_...)."""
    created: Timestamp
    """When the aggregator published it."""
    signature: Signature | None = None
    """Of the federation, over the model's manifest in the store. Absent: the federation has no key."""

    model_config = cel_rules(
        {
            "rule": "self == oldSelf",
            "message": "a GlobalModel is immutable: publish a new one instead",
            "reason": "FieldValueForbidden",
        }
    )
