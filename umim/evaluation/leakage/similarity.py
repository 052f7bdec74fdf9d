"""How alike a reconstruction and an image are. Pure; images are float64 (C, S, S) in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

Image = NDArray[np.float64]
MOST_DECIBELS = 100.0
"""Of an exact reconstruction, whose PSNR would be infinite."""
WINDOW = 7


def psnr(image: Image, truth: Image) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((image - truth) ** 2))
    return MOST_DECIBELS if error == 0 else min(MOST_DECIBELS, -10 * float(np.log10(error)))


def ssim(image: Image, truth: Image) -> float:
    """Return the structural similarity (Wang et al. 2004), the mean over windows of 7 x 7 pixels and channels."""
    size = (1, WINDOW, WINDOW)
    mean_a, mean_b = uniform_filter(image, size), uniform_filter(truth, size)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variance_a = unbiased * (uniform_filter(image**2, size) - mean_a**2)
    variance_b = unbiased * (uniform_filter(truth**2, size) - mean_b**2)
    covariance = unbiased * (uniform_filter(image * truth, size) - mean_a * mean_b)
    small, smaller = 0.01**2, 0.03**2
    above = (2 * mean_a * mean_b + small) * (2 * covariance + smaller)
    below = (mean_a**2 + mean_b**2 + small) * (variance_a + variance_b + smaller)
    edge = WINDOW // 2
    return float((above / below)[:, edge:-edge, edge:-edge].mean())


def correlation(image: Image, truth: Image) -> float:
    """Return Pearson's correlation over pixels. 0 where one of them is constant."""
    a, b = image - image.mean(), truth - truth.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return 0.0 if norm < 1e-12 else float((a * b).sum()) / norm


def assign(images: NDArray[np.float64], truths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each truth (B, C, S, S) the number of its reconstruction: one each, least squared error in all."""
    costs = ((truths[:, None] - images[None]) ** 2).mean(axis=(2, 3, 4))
    return np.asarray(linear_sum_assignment(costs)[1], dtype=np.int64)


def nearest(image: Image, pool: NDArray[np.float64]) -> int:
    """Return the number of the image in ``pool`` (P, C, S, S) with the largest correlation."""
    return int(np.argmax([correlation(image, one) for one in pool]))
