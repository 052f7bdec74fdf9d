"""A federation on a memory store: a parent model and committed updates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from umim.api.artifacts import JobResult
from umim.api.base import ModelReference
from umim.api.hospital import Task
from umim.api.jobs import AggregateJobConfig, UpdateReference
from umim.api.round import AggregationSpec
from umim.artifacts.files import sha256_of
from umim.artifacts.memory import MemoryStore
from umim.artifacts.models import HeadFile, fetch_model, publish_model, publish_update
from umim.artifacts.tensors import read_safetensors
from umim.artifacts.writer import WrittenTensors, write_safetensors
from umim.entrypoints.aggregate import aggregate
from umim.training.reporter import Clock
from umim.training.runtime import Runtime
from umim.training.site import Surroundings

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
        self.result: JobResult | None = None
        self.round_uid = UID

    def start(self, tensors: Tensors, parts: WrittenTensors | None = None, **changes: Any) -> None:
        """Publish the parent; ``changes`` go into its manifest."""
        path = write_safetensors(tensors, self.folder / "start").path
        fields: dict[str, Any] = {
            "architecture": "vit",
            "image_size": 64,
            "strategy": "init-random",
            "round_uid": UID,
            "seed": 0,
            "software": {},
            "created": CREATED,
            "parts": parts,
        }
        digest = publish_model(self.store, path, **(fields | changes))
        parts_digest = None if parts is None else parts.digest
        self.parent = ModelReference(name="base", digest=digest, parts_digest=parts_digest)

    def commit(self, site: str, tensors: Tensors, samples: int = 10, **changes: Any) -> None:
        """Commit a site's update; ``changes`` go into its manifest."""
        written = write_safetensors(tensors, self.folder / "update")
        head: HeadFile | None = changes.get("head")
        fields: dict[str, Any] = {
            "round_uid": self.round_uid,
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
        head_digest = None if head is None else sha256_of(head.path)
        self.updates.append(UpdateReference(site=site, attempt=1, digest=written.digest, head_digest=head_digest))

    def head(
        self, name: str, tensors: Tensors, task_name: str = "tissue", task: Task = "classification", **changes: Any
    ) -> HeadFile:
        """Return a head on the local disk to commit with an update."""
        path = write_safetensors(tensors, self.folder / f"{name}.head").path
        return HeadFile(**{"path": path, "task_name": task_name, "task": task, "classes": ("a", "b"), **changes})

    def config(self, **changes: Any) -> AggregateJobConfig:
        """Return the aggregator's configuration."""
        fields: dict[str, Any] = {
            "round_namespace": "federation",
            "round_name": "stage-1",
            "round_uid": self.round_uid,
            "attempt": 1,
            "architecture": "vit",
            "image_size": 64,
            "parent": self.parent,
            "aggregation": AggregationSpec(),
            "updates": self.updates,
            "quorum": 1,
            "seed": 3,
            "work_path": str(self.folder / "work"),
        }
        return AggregateJobConfig(**(fields | changes))

    def aggregate(self, created: datetime = CREATED, **changes: Any) -> JobResult:
        """Aggregate and return the result."""
        self.result = aggregate(self.store, self.config(**changes), surroundings(created))
        return self.result

    def next_round(self) -> None:
        """Go on from the model that was aggregated last. Nobody has committed yet."""
        assert self.result is not None
        assert self.result.model_digest is not None
        self.parent = ModelReference(
            name="next", digest=self.result.model_digest, parts_digest=self.result.parts_digest
        )
        self.updates = []
        self.round_uid += "-next"

    def merged(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the model that was aggregated last."""
        assert self.result is not None
        assert self.result.model_digest is not None
        path = self.folder / "merged"
        fetch_model(self.store, self.result.model_digest, path)
        return read_safetensors(path)


def surroundings(now: datetime = CREATED) -> Surroundings:
    """Return what an aggregation needs from outside."""
    return Surroundings(Runtime(torch.device("cpu"), None), lambda _: None, Clock(now=lambda: now))


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(MemoryStore(), tmp_path / "federation")
