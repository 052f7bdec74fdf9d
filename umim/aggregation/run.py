"""The steps of an aggregation: receive the updates, merge those that are what they should be."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from umim import contract
from umim.aggregation.engine import Engine, Progress, untold
from umim.aggregation.interface import Matrix
from umim.aggregation.merge import Merged, decode_file, merge_files
from umim.aggregation.names import fewest_sites
from umim.aggregation.reader import ReceivedUpdate
from umim.aggregation.strategy import make_strategy
from umim.aggregation.updates import BadUpdateError, Update
from umim.aggregation.validation import check_references, receive_update
from umim.api.artifacts import Exclusion, ModelManifest
from umim.api.globalmodel import SharedHead
from umim.api.jobs import AggregateJobConfig
from umim.api.round import EncodingSpec
from umim.artifacts.models import fetch_model, fetch_parts
from umim.artifacts.parts import read_parts
from umim.artifacts.sources import MappedSource, Source, StoredSource
from umim.artifacts.store import ObjectStore
from umim.errors import ArtifactError, ConfigError
from umim.models.state import ModelState

RANGES_BYTES = 128 << 20
"""Bytes of updates that are held as read from the store, all sites together."""
SMALLEST_RANGE, LARGEST_RANGE = 256 << 10, 8 << 20
READING_THREADS = 8
"""Fewest threads: reads from the store wait for the network, not for a core."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collected:
    """What a round's merge works on."""

    parent: ModelManifest
    """Manifest of the model that the sites started from."""
    parent_path: Path
    """Its encoder, on the local disk."""
    parent_parts: Mapping[str, torch.Tensor]
    """Its other parts, as from ``ModelState.parts``."""
    parent_heads: Sequence[SharedHead]
    """What its shared heads mean."""
    updates: Sequence[ReceivedUpdate]
    """Updates that may be merged, sorted by site."""
    exclusions: Sequence[Exclusion]
    """Updates that were left out, sorted by site."""


@dataclass(frozen=True)
class Outcome:
    """A merge, and what became of the updates."""

    merged: Merged | None
    """The merged model. None: too few updates are left."""
    updates: Sequence[ReceivedUpdate]
    """The updates that it holds, sorted by site."""
    exclusions: Sequence[Exclusion]
    """Updates that were left out, sorted by site."""
    gram: Matrix | None = None
    """Inner products of the sites' changes, where somebody asked for them, see ``Engine.raw_gram``."""
    shares: Sequence[float] = ()
    """How much each site counts in the merge; the sum is 1."""
    message: str = ""
    """Why there is no model."""


def collect(store: ObjectStore, config: AggregateJobConfig, work: Path) -> Collected:
    """Download a round's parent and check what its updates say of themselves.

    ``work`` is a folder on a disk with room for a few models. Raises ConfigError for a site named twice or a parent
    of another architecture, ArtifactError when the parent is damaged, and the store's errors.
    """
    check_references(config.updates)
    parent_path, parts_path = work / "parent.safetensors", work / "parts.safetensors"
    parent = fetch_model(store, config.parent.digest, parent_path)
    _check_parent(parent, config)
    parts, heads = read_parts(parts_path) if fetch_parts(store, config.parent, parts_path) else ({}, [])
    updates: list[ReceivedUpdate] = []
    exclusions: list[Exclusion] = []
    for reference in sorted(config.updates, key=lambda reference: reference.site):
        outcome = receive_update(store, config, parent, reference, work / "updates")
        if isinstance(outcome, Exclusion):
            _excluded(exclusions, outcome)
        else:
            updates.append(outcome)
    return Collected(parent, parent_path, parts, heads, updates, exclusions)


def merge(
    store: ObjectStore,
    config: AggregateJobConfig,
    collected: Collected,
    threads: int,
    work: Path,
    progress: Progress = untold,
) -> Outcome:
    """Merge the collected updates and write the model to a folder; read each only as it is merged.

    An update whose bytes are not what they should be is left out, and the merge starts again without it. Raises
    ConfigError for the strategy, ArtifactError when the merge leaves the range of a tensor's type, and the store's
    errors.
    """
    strategy = make_strategy(config.aggregation)
    scales = config.aggregation.scales
    updates, exclusions = list(collected.updates), list(collected.exclusions)
    fewest = max(config.quorum, fewest_sites(config.aggregation))
    with MappedSource(collected.parent_path) as parent, _optimiser_files(store, config, collected, work) as slots:
        while len(updates) >= fewest:
            _log.info("merging %d updates by %s", len(updates), config.aggregation.strategy)
            sources = [_update(store, update, config.aggregation.encoding, len(updates)) for update in updates]
            engine = Engine(parent, sources, config.aggregation, max(READING_THREADS, threads), progress)
            try:
                merged = merge_files(strategy, engine, work, scales[0] if len(scales) == 1 else 1.0, slots)
            except BadUpdateError as bad:
                _excluded(exclusions, Exclusion(site=bad.site, reason=bad.reason, message=str(bad)))
                updates = [update for update in updates if update.site != bad.site]
                continue
            return Outcome(merged, updates, exclusions, engine.known_gram, engine.shares)
    message = f"{len(updates)} of {len(config.updates)} updates are valid, quorum is {config.quorum}"
    if fewest > config.quorum:
        message += f", and {config.aggregation.strategy} with byzantine {config.aggregation.byzantine} needs {fewest}"
    return Outcome(None, updates, exclusions, message=message)


def fetch_encoder(
    store: ObjectStore, config: AggregateJobConfig, parent_path: Path, work: Path, update: ReceivedUpdate
) -> Path:
    """Write the encoder that a site trained to a file of the parent's shapes and types, and return it.

    Raises ArtifactError when the update is not what it was in the merge, and the store's errors.
    """
    encoding = config.aggregation.encoding
    path = work / "teachers" / f"{update.site}.safetensors"
    with MappedSource(parent_path) as parent:
        try:
            return decode_file(parent, _update(store, update, encoding, 1), path)
        except BadUpdateError as bad:
            raise ArtifactError(f"{update.key} is not what it was when it was merged: {bad}") from bad


def range_bytes(count: int) -> int:
    """Return in ranges of how many bytes so many updates are read from the store at once."""
    return min(LARGEST_RANGE, max(SMALLEST_RANGE, RANGES_BYTES // count))


def _update(store: ObjectStore, update: ReceivedUpdate, encoding: EncodingSpec, count: int) -> Update:
    source = StoredSource(store, update.key, update.size_bytes, range_bytes(count))
    return Update(update.site, update.samples, source, update.digest, encoding)


@contextmanager
def _optimiser_files(
    store: ObjectStore, config: AggregateJobConfig, collected: Collected, work: Path
) -> Iterator[Mapping[str, Source]]:
    """Fetch what the strategy's optimiser remembers from the parent's round, by slot.

    Another strategy's is not looked at: after a change of the strategy the optimiser starts anew.
    """
    prefix = f"{config.aggregation.strategy}."
    found: dict[str, Source] = {}
    with ExitStack() as stack:
        for name, digest in sorted(ModelState.from_parts({}, collected.parent_parts).optimiser.items()):
            if name.startswith(prefix):
                path = work / f"parent.{name}.safetensors"
                key = contract.optimiser_key(config.parent.digest, digest)
                if store.download(key, path) != digest:
                    raise ArtifactError(f"{key} has another sha256 than its name: the stored object is damaged")
                found[name.removeprefix(prefix)] = stack.enter_context(MappedSource(path))
        yield found


def _excluded(exclusions: list[Exclusion], exclusion: Exclusion) -> None:
    _log.warning("site %s: excluded (%s): %s", exclusion.site, exclusion.reason, exclusion.message)
    exclusions.append(exclusion)
    exclusions.sort(key=lambda one: one.site)


def _check_parent(parent: ModelManifest, config: AggregateJobConfig) -> None:
    found, expected = (parent.architecture, parent.image_size), (config.architecture, config.image_size)
    if found != expected:
        raise ConfigError(
            f"parent: model {config.parent.digest} is {found[0]} at {found[1]} pixels, "
            f"the round trains {expected[0]} at {expected[1]}"
        )
