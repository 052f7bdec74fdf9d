"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629): the mean of the updates, weighted by samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from umim.aggregation.reader import TensorSource, WeightedUpdate


class FedAvg:
    """See ``Strategy``. Accumulates in float64, site by site, so that rounding does not depend on anything else."""

    def merge(
        self,
        parent: TensorSource,
        updates: Sequence[WeightedUpdate],
        names: Sequence[str],
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield sum_k(samples_k * tensor_k) / sum_k(samples_k) for every name."""
        total = sum(update.samples for update in updates)
        for name in names:
            mean = torch.zeros(parent.infos[name].shape, dtype=torch.float64)
            for update in updates:
                # The share first: a product with the number of samples could leave the range of float64.
                mean += update.tensors.read(name).to(torch.float64) * (update.samples / total)
            yield name, mean
