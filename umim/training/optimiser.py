"""AdamW over a learner's parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from umim.api.round import OptimisationSpec

OPTIMISER_PREFIX = "optimiser."


def create_optimiser(model: nn.Module, spec: OptimisationSpec) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101). Weight decay acts on matrices and kernels only.

    Biases, norms, positions, tokens and bias tables are not decayed, as is usual for Vision Transformers.
    """
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if name.endswith("weight") and parameter.ndim >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(
    loss: Tensor,
    parameters: Iterable[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip_norm: float,
) -> None:
    """Take one step against the gradient of ``loss``, whose L2 norm over all parameters is cut to ``clip_norm``."""
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(scaler.scale(loss))
    scaler.unscale_(optimiser)
    nn.utils.clip_grad_norm_(parameters, clip_norm)
    scaler.step(optimiser)
    scaler.update()


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors: ``optimiser.<parameter>.<entry>``."""
    return {
        f"{OPTIMISER_PREFIX}{name}.{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimiser_tensors`` returned."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.removeprefix(OPTIMISER_PREFIX).rpartition(".")
        parameter = parameters[name]
        optimiser.state[parameter][entry] = value.to(parameter.device)
