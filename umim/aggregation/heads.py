"""Shared heads: those of one task whose sites agree become one head, the others are left out with a reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from umim.aggregation.reader import ReceivedUpdate, SpilledHead
from umim.api.artifacts import HeadExclusion
from umim.api.globalmodel import MOST_HEADS, SharedHead
from umim.artifacts.tensors import read_safetensors

Tensors = Mapping[str, torch.Tensor]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedHeads:
    """The shared heads of a model."""

    tensors: Mapping[str, Tensors]
    """Tensors of each head by task name."""
    described: Sequence[SharedHead]
    """What each head means, sorted by task name."""
    exclusions: Sequence[HeadExclusion] = ()
    """Heads of sites that were left out, sorted by site."""


Member = tuple[ReceivedUpdate, SpilledHead]


def merge_heads(updates: Sequence[ReceivedUpdate], parent: SharedHeads) -> SharedHeads:
    """Return the model's shared heads: the merged ones, and the parent's where no site trained one.

    Of one task, the heads with equal task, classes and shapes whose sites have most samples together are merged (mean
    weighted by samples, in float64, in the order of the sites); the others disagree and are left out.
    """
    exclusions = [update.head for update in updates if isinstance(update.head, HeadExclusion)]
    tensors, described = dict(parent.tensors), {head.task_name: head for head in parent.described}
    for name, members in sorted(_by_task(updates).items()):
        chosen, others = _agreeing(members)
        exclusions += [_disagreement(update.site, head, chosen[0]) for update, head in others]
        if name not in described and len(described) >= MOST_HEADS:
            text = f"the model holds {MOST_HEADS} shared heads already, more are not allowed"
            exclusions += [HeadExclusion(site=update.site, task_name=name, message=text) for update, _ in chosen]
            continue
        tensors[name] = _mean(chosen)
        sites = [update.site for update, _ in chosen]
        first = chosen[0][1]
        described[name] = SharedHead(task_name=name, task=first.task, classes=list(first.classes), sites=sites)
    for exclusion in exclusions:
        _log.warning("site %s: head of task %s: %s", exclusion.site, exclusion.task_name, exclusion.message)
    exclusions.sort(key=lambda exclusion: exclusion.site)
    return SharedHeads(tensors, [described[name] for name in sorted(described)], exclusions)


def _by_task(updates: Sequence[ReceivedUpdate]) -> dict[str, list[Member]]:
    """Return the usable heads by task name, each list sorted by site."""
    found: dict[str, list[Member]] = {}
    for update in sorted(updates, key=lambda update: update.site):
        if isinstance(update.head, SpilledHead):
            found.setdefault(update.head.task_name, []).append((update, update.head))
    return found


def _agreeing(members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """Split into the agreeing group with most samples, of equal ones that of the first site, and the rest."""
    groups = [[other for other in members if other[1].agrees(head)] for _, head in members]
    chosen = max(groups, key=lambda group: sum(update.samples for update, _ in group))
    return chosen, [member for member in members if member not in chosen]


def _disagreement(site: str, head: SpilledHead, chosen: Member) -> HeadExclusion:
    other, reference = chosen
    parts = (
        ("task", head.task, reference.task),
        ("classes", list(head.classes), list(reference.classes)),
        ("tensors", _shapes(head), _shapes(reference)),
    )
    what, has, wanted = next(part for part in parts if part[1] != part[2])
    text = f"its {what} {has} differ from {wanted} of {other.site} and those who agree with it"
    return HeadExclusion(site=site, task_name=head.task_name, message=text)


def _shapes(head: SpilledHead) -> dict[str, list[int]]:
    return {name: info.shape for name, info in head.tensors.items()}


def _mean(members: Sequence[Member]) -> dict[str, torch.Tensor]:
    total = sum(update.samples for update, _ in members)
    means: dict[str, torch.Tensor] = {}
    for update, head in members:
        for name, values in read_safetensors(head.path).items():
            # The share first: a product with the number of samples could leave the range of float64.
            part = values.to(torch.float64) * (update.samples / total)
            means[name] = means[name] + part if name in means else part
    return {name: mean.to(torch.float32) for name, mean in means.items()}
