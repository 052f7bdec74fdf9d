"""The steps of an aggregation: collect and check the updates, merge them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from umim.aggregation.reader import SpilledUpdate, open_updates
from umim.aggregation.strategy import Strategy
from umim.aggregation.validation import check_references, collect_update
from umim.api.artifacts import Exclusion, ModelManifest
from umim.api.globalmodel import SharedHead
from umim.api.jobs import AggregateJobConfig
from umim.artifacts.models import fetch_model, fetch_parts
from umim.artifacts.parts import read_parts
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import open_safetensors
from umim.errors import ArtifactError, ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What a round's merge works on, on the local disk."""

    parent: ModelManifest
    """Manifest of the model that the sites started from."""
    parent_path: Path
    """Its encoder."""
    parent_parts: Mapping[str, torch.Tensor]
    """Its other parts, as from ``ModelState.parts``."""
    parent_heads: Sequence[SharedHead]
    """What its shared heads mean."""
    updates: Sequence[SpilledUpdate]
    """Valid updates, sorted by site."""
    exclusions: Sequence[Exclusion]
    """Updates that were left out, sorted by site."""


def collect(store: ObjectStore, config: AggregateJobConfig, work: Path) -> Collected:
    """Download and check a round's parent and updates.

    ``work`` is a folder on a disk with room for the parent and all updates. Raises ConfigError for a site named twice
    or a parent of another architecture, ArtifactError when the parent is damaged, and the store's errors.
    """
    check_references(config.updates)
    parent_path, parts_path = work / "parent.safetensors", work / "parts.safetensors"
    parent = fetch_model(store, config.parent.digest, parent_path)
    _check_parent(parent, config)
    parts, heads = read_parts(parts_path) if fetch_parts(store, config.parent, parts_path) else ({}, [])
    updates, exclusions = _collect(store, config, parent, work / "updates")
    return Collected(parent, parent_path, parts, heads, updates, exclusions)


def merge(strategy: Strategy, parent_path: Path, updates: Sequence[SpilledUpdate]) -> dict[str, torch.Tensor]:
    """Return the merged model's tensors, in the parent's shapes and types.

    Integer and boolean tensors (counters, index tables) keep the parent's value: a mean of them has no meaning.
    Raises ArtifactError when the merge leaves the range of a tensor's type.
    """
    with open_safetensors(parent_path) as parent, open_updates(updates) as opened:
        merged = {name: parent.read(name).clone() for name in parent.infos}
        names = [name for name in merged if merged[name].is_floating_point()]
        for name, value in strategy.merge(parent, opened, names):
            merged[name] = value.to(merged[name].dtype)
            if not bool(torch.isfinite(merged[name]).all()):
                raise ArtifactError(f"merged tensor {name} is not finite in {merged[name].dtype}")
        return merged


def _check_parent(parent: ModelManifest, config: AggregateJobConfig) -> None:
    found, expected = (parent.architecture, parent.image_size), (config.architecture, config.image_size)
    if found != expected:
        raise ConfigError(
            f"parent: model {config.parent.digest} is {found[0]} at {found[1]} pixels, "
            f"the round trains {expected[0]} at {expected[1]}"
        )


def _collect(
    store: ObjectStore, config: AggregateJobConfig, parent: ModelManifest, folder: Path
) -> tuple[list[SpilledUpdate], list[Exclusion]]:
    """Download and check all updates, one by one, sorted by site."""
    updates: list[SpilledUpdate] = []
    exclusions: list[Exclusion] = []
    references = sorted(config.updates, key=lambda reference: reference.site)
    for number, reference in enumerate(references, start=1):
        outcome = collect_update(store, config, parent, reference, folder)
        if isinstance(outcome, Exclusion):
            exclusions.append(outcome)
            state = f"excluded ({outcome.reason}): {outcome.message}"
        else:
            updates.append(outcome)
            state = f"valid, {outcome.samples} samples"
        _log.info("update %d of %d, site %s: %s", number, len(references), reference.site, state)
    return updates, exclusions
