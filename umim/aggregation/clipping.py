"""Norm clipping: a site's change that is longer than allowed is scaled down to the allowed length."""

from __future__ import annotations

from collections.abc import Sequence


def clip_factors(norms: Sequence[float], clip_norm: float) -> tuple[float, ...]:
    """Return by what each change is multiplied: min(1, clip_norm / norm) (Sun et al. 2019, arXiv 1911.07963).

    ``norms`` are the L2 norms of the changes over the whole model, ``clip_norm`` is above 0.
    """
    return tuple(1.0 if norm <= clip_norm else clip_norm / norm for norm in norms)
