"""What a global model holds besides its encoder: the MIM decoder, shared heads, the server's optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

MIM_PREFIX = "mim."
HEADS_PREFIX = "heads."
OPTIMISER_PREFIX = "optimiser."


@dataclass(frozen=True)
class ModelState:
    """The tensors of one model on the CPU."""

    encoder: Tensors
    """The encoder, named as in timm's state_dict."""
    mim: Tensors = field(default_factory=dict)
    """The decoder of masked image modelling, named as in ``MimModel``'s state_dict. Empty: there is none yet."""
    heads: Mapping[str, Tensors] = field(default_factory=dict)
    """Shared heads by task name, each named as in the head's state_dict."""

    optimiser: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each file that the server's optimiser continues from, by ``<strategy>.<slot>``. The files lie in the
    store beside the model: a site has no use for them."""

    def parts(self) -> dict[str, Tensor]:
        """Return all but the encoder as one flat mapping: ``mim.<name>`` and ``heads.<task name>.<name>``,
        and ``optimiser.<strategy>.<slot>``: the 32 bytes of a digest."""
        found = {MIM_PREFIX + name: value for name, value in self.mim.items()}
        for task, tensors in sorted(self.heads.items()):
            found |= {f"{HEADS_PREFIX}{task}.{name}": value for name, value in tensors.items()}
        for slot, digest in sorted(self.optimiser.items()):
            found[OPTIMISER_PREFIX + slot] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
        return found

    @classmethod
    def from_parts(cls, encoder: Tensors, parts: Tensors) -> ModelState:
        """Return the state of an encoder and what ``parts`` returned. Task names are DNS labels: they have no dot."""
        mim = {name.removeprefix(MIM_PREFIX): value for name, value in parts.items() if name.startswith(MIM_PREFIX)}
        heads: dict[str, dict[str, Tensor]] = {}
        for name, value in parts.items():
            if name.startswith(HEADS_PREFIX):
                task, _, rest = name.removeprefix(HEADS_PREFIX).partition(".")
                heads.setdefault(task, {})[rest] = value
        optimiser = {
            name.removeprefix(OPTIMISER_PREFIX): bytes(value.tolist()).hex()
            for name, value in parts.items()
            if name.startswith(OPTIMISER_PREFIX)
        }
        return cls(encoder, mim, heads, optimiser)
