"""One aggregation: collect and check the updates, merge them, publish the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch

from umim.aggregation.reader import SpilledUpdate, open_updates
from umim.aggregation.strategy import Strategy, make_strategy
from umim.aggregation.validation import check_references, collect_update
from umim.api.artifacts import Exclusion, JobResult, ModelManifest
from umim.api.figures import weighted_means
from umim.api.globalmodel import Contributor
from umim.api.jobs import AggregateJobConfig
from umim.artifacts.manifests import software_versions
from umim.artifacts.models import fetch_model, publish_model
from umim.artifacts.store import ObjectStore
from umim.artifacts.tensors import open_safetensors, write_safetensors
from umim.errors import ArtifactError, ConfigError

SOFTWARE = ("umim", "torch", "safetensors")

_log = logging.getLogger(__name__)


def aggregate(store: ObjectStore, config: AggregateJobConfig, work: Path, created: datetime) -> JobResult:
    """Merge a round's updates into a model, publish it, and return the result to commit.

    ``work`` is a folder on a disk with room for the parent and all updates. Too few valid updates give a result
    without a model. The same updates give the same digest, in any order of arrival and with any number of threads.
    Raises ConfigError for an unknown strategy, a site named twice or a parent of another architecture, ArtifactError
    when the parent is damaged, and the store's errors.
    """
    strategy = make_strategy(config.aggregation)
    check_references(config.updates)
    parent_path = work / "parent.safetensors"
    parent = fetch_model(store, config.parent.digest, parent_path)
    _check_parent(parent, config)
    updates, exclusions = _collect(store, config, parent, work / "updates")
    result = JobResult(round_uid=config.round_uid, exclusions=exclusions)
    if len(updates) < config.quorum:
        message = f"{len(updates)} of {len(config.updates)} updates are valid, quorum is {config.quorum}"
        return result.model_copy(update={"message": message})
    merged = merge(strategy, parent_path, updates)
    written = write_safetensors(merged, work / "merged.safetensors")
    digest = publish_model(
        store,
        written.path,
        architecture=config.architecture,
        image_size=config.image_size,
        strategy=config.aggregation.strategy,
        round_uid=config.round_uid,
        seed=config.seed,
        software=software_versions(SOFTWARE),
        created=created,
        parent=config.parent,
        contributors=[
            Contributor(site=update.site, update_digest=update.digest, samples=update.samples) for update in updates
        ],
        metrics=weighted_means([(update.metrics, update.samples) for update in updates]),
    )
    _log.info("published model %s from %d updates", digest, len(updates))
    return result.model_copy(update={"model_digest": digest})


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
