"""Random numbers that nobody can compute again: for noise that protects, and for whom a private training draws.

torch's generator for the CPU takes 32 bits of a seed and no more, whatever ``manual_seed`` is given. Whoever sees an
update can try all noises of so few seeds, and subtract the one that leaves a short change. So on the CPU every value is
made from bytes of the operating system's generator, which is a cryptographic one; on a GPU the generator of CUDA
(Philox) is seeded anew with 63 of its bits each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Entropy = Callable[[int], bytes]
"""Returns so many random bytes, as ``os.urandom`` does. Tests give one that repeats itself."""


def uniform(count: int, entropy: Entropy) -> Tensor:
    """Return (count,) values in [0, 1) in float64, on the CPU."""
    if not count:
        return torch.zeros(0, dtype=torch.float64)
    bits = torch.frombuffer(bytearray(entropy(8 * count)), dtype=torch.int64)
    return (bits >> 11 & (1 << 53) - 1).double() * 2.0**-53


def gaussian(shape: torch.Size, deviation: float, entropy: Entropy, device: torch.device) -> Tensor:
    """Return Gaussian values of a standard deviation, in float64 on the device.

    float64 because the pattern of rounding in float32 can tell what a noise was added to (Mironov 2012). On the CPU by
    Box and Muller (1958).
    """
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(seed(entropy))
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=device).mul_(deviation)
    count = math.prod(shape)
    half = (count + 1) // 2
    # 1 - u is in (0, 1]: its logarithm is finite.
    radius = uniform(half, entropy).neg_().log1p_().mul_(-2.0).sqrt_().mul_(deviation)
    angle = uniform(half, entropy).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].view(shape)


def seed(entropy: Entropy) -> int:
    """Return a seed in [0, 2**63) for random numbers that need not withstand anybody who tries."""
    return int.from_bytes(entropy(8), "big") >> 1
