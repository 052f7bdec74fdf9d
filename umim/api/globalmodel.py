"""The GlobalModel resource: an immutable registry entry of one published model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from umim.api.base import ApiModel, Digest, Metrics, ModelReference, Timestamp, cel_rules


class Contributor(ApiModel):
    """One site whose update went into the model."""

    site: Annotated[str, Field(max_length=320)]
    """The site as namespace.name."""
    update_digest: Digest
    """sha256 of its update."""
    samples: Annotated[int, Field(ge=1)]
    """Number of training images behind the update: its weight in a weighted mean."""


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
    contributors: Annotated[list[Contributor], Field(max_length=1000)] = Field(default_factory=list)
    """Sites whose updates it holds, sorted by site."""
    metrics: Metrics = Field(default_factory=dict)
    """Figures of the round, weighted over the sites by samples."""
    created: Timestamp
    """When the aggregator published it."""

    model_config = cel_rules(
        {
            "rule": "self == oldSelf",
            "message": "a GlobalModel is immutable: publish a new one instead",
            "reason": "FieldValueForbidden",
        }
    )
