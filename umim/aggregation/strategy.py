"""How updates become one model: the interface, and the strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch

from umim.aggregation.fedavg import FedAvg
from umim.aggregation.names import check_strategy
from umim.aggregation.reader import TensorSource, WeightedUpdate
from umim.aggregation.ties import Ties
from umim.api.round import AggregationSpec


class Strategy(Protocol):
    """Merges the floating-point tensors of the updates."""

    def merge(
        self, parent: TensorSource, updates: Sequence[WeightedUpdate], names: Sequence[str]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor of ``names`` once, merged, in float64 and the parent's shape.

        ``names`` are the parent's floating-point tensors, sorted; ``updates`` are valid, sorted by site, at least one.
        Reads tensors one at a time and keeps to the given order, so that equal inputs give equal bits.
        """
        ...


FACTORIES: Mapping[str, Callable[..., Strategy]] = {"fedavg": FedAvg, "ties": Ties}
"""Makes each strategy of ``names.STRATEGIES`` from its options, given by name."""


def make_strategy(spec: AggregationSpec) -> Strategy:
    """Return the strategy of a round. Raises ConfigError naming the field, see ``names.check_strategy``."""
    check_strategy(spec)
    return FACTORIES[spec.strategy](**spec.options)
