"""A federation on a memory store: a parent model and committed updates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from umim.api.base import ModelReference
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.api.round import AggregationSpec
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import publish_model, publish_update
from umim.artifacts.tensors import write_safetensors

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UID = "u1"

Tensors = Mapping[str, torch.Tensor]


class Federation:
    """A round whose sites have committed updates."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.parent = ModelReference(name="base", digest="0" * 64)
        self.updates: list[UpdateReference] = []

    def start(self, tensors: Tensors) -> None:
        """Publish the parent."""
        path = write_safetensors(tensors, self.folder / "start").path
        digest = publish_model(
            self.store,
            path,
            architecture="vit",
            image_size=64,
            strategy="init-random",
            round_uid=UID,
            seed=0,
            software={},
            created=CREATED,
        )
        self.parent = ModelReference(name="base", digest=digest)

    def commit(self, site: str, tensors: Tensors, samples: int = 10, **changes: Any) -> None:
        """Commit a site's update; ``changes`` go into its manifest."""
        written = write_safetensors(tensors, self.folder / "update")
        fields: dict[str, Any] = {
            "round_uid": UID,
            "site": site,
            "attempt": 1,
            "parent_digest": self.parent.digest,
            "architecture": "vit",
            "image_size": 64,
            "samples": samples,
            "metrics": {},
            "seed": 0,
            "software": {},
            "created": CREATED,
        }
        publish_update(self.store, written.path, **(fields | changes))
        self.updates.append(UpdateReference(site=site, attempt=1, digest=written.digest))

    def config(self, **changes: Any) -> AggregateJobConfig:
        """Return the aggregator's configuration."""
        fields: dict[str, Any] = {
            "round_namespace": "federation",
            "round_name": "stage-1",
            "round_uid": UID,
            "attempt": 1,
            "architecture": "vit",
            "image_size": 64,
            "parent": self.parent,
            "aggregation": AggregationSpec(),
            "updates": self.updates,
            "quorum": 1,
            "seed": 3,
        }
        return AggregateJobConfig(**(fields | changes))


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(MemoryStore(), tmp_path / "federation")
