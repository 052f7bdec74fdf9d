"""From stored values to 8-bit images of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5


def scale_range(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map [low, high] linearly to [0, 255] and clip. A range without width gives black."""
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    unit = np.clip((values.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    result: NDArray[np.uint8] = np.rint(unit * 255).astype(np.uint8)
    return result


def scale_percentiles(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the range between the 0.5th and the 99.5th percentile of the finite values to [0, 255].

    Robust against single bright voxels. Values that are not finite become black. Where the percentiles meet (a
    small bright object on a flat ground) the full range is used.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = (float(value) for value in np.percentile(values[finite], (LOW_PERCENTILE, HIGH_PERCENTILE)))
    if not high > low:
        low, high = float(values[finite].min()), float(values[finite].max())
    return scale_range(np.where(finite, values, low), low, high)


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an (H, W) or (H, W, 3) image as (C, size, size): squeezed to a square, bilinear with antialiasing."""
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an (H, W) mask as (size, size) with values {0, 1}: nearest neighbour, foreground where above 0."""
    binary = (mask > 0).astype(np.uint8)
    if binary.shape != (size, size):
        binary = np.asarray(Image.fromarray(binary).resize((size, size), Image.Resampling.NEAREST))
    return binary
