"""How much a file of images may claim to hold. Readers check it before they allocate, inflate or decode anything.

A data volume is filled from scanners, archives and other hospitals: a header may lie, and a few kilobytes may unfold
to terabytes. The limits lie far above real images and below what would take a machine down. Within them, the memory
limit of the Pod holds.
"""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib

from PIL import Image

from umim.errors import DataError

MOST_PIXELS = 89_478_485
"""Pixels of one image, frame or slice, 9459 x 9459. Above it Pillow warns of a decompression bomb by itself."""
MOST_FRAMES = 65_536
"""Frames of one DICOM file, slices of one volume: each becomes an image of its own, however small it is."""
MOST_VALUES = 1 << 29
"""Values of all frames, slices and colours of one file: 512 x 512 x 2048, for example."""
MOST_ARRAY_BYTES = 16 << 30
"""One array of an npz archive. The largest one of MedMNIST+ (PathMNIST at 224 pixels) has 13 GiB."""
MOST_INFLATED_BYTES = 2 << 30
"""What follows the file meta information of a deflated DICOM file."""
MOST_LEADING_BYTES = 64 << 20
"""Header and extensions before the voxels of a NIfTI file."""
MOST_FILES = 5_000_000
"""Files of a data set, and images."""
MOST_TABLE_BYTES = 1 << 30
"""A CSV file with labels."""
MOST_CLASSES = 10_000
"""Classes or labels of a data set."""
MOST_INFLATION = 1032
"""Deflate turns one byte into at most so many (zlib's documentation): a header that says more lies."""

UNREADABLE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What the libraries for images raise at bytes that they do not understand. To be caught around a call of them only."""

PUBLIC = "a file of the data claims more than a limit of umim.data.limits allows"
"""What may leave the hospital of such a refusal: no name, no value."""


def check_limit(what: str, value: int, most: int, least: int = 1) -> None:
    """Raise DataError unless ``value`` is from ``least`` to ``most``. ``what`` names the file and what was counted."""
    if not least <= value <= most:
        raise DataError(f"{what}: {value}; allowed are {least} to {most}", public=PUBLIC)


def check_size(what: str, height: int, width: int, frames: int = 1, channels: int = 1) -> None:
    """Raise DataError when an image, or a file of several frames, is larger than allowed. ``what`` names the file."""
    for side, value in (("rows", height), ("columns", width)):
        check_limit(f"{what} says how many {side} it has", value, MOST_PIXELS)
    check_limit(f"{what} says how many frames it has", frames, MOST_FRAMES)
    check_limit(f"{what} says how many pixels an image has ({width}x{height})", height * width, MOST_PIXELS)
    check_limit(
        f"{what} says how many values it has ({frames} x {width}x{height} x {channels})",
        frames * height * width * channels,
        MOST_VALUES,
    )
