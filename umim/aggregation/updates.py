"""Updates as the engine reads them: a source, what is known of it, and the checks that the bytes must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from umim.aggregation.gram import LARGEST_EXPONENT
from umim.aggregation.interface import Array, Matrix
from umim.aggregation.passes import Reader, Slice, TensorValues
from umim.api.artifacts import ExclusionReason, TensorInfo
from umim.api.round import EncodingSpec
from umim.artifacts.encodings import Decoder, NotFiniteError, encoded_infos
from umim.artifacts.layout import Layout, plan_layout, read_layout
from umim.artifacts.models import check_tensors
from umim.artifacts.sources import HashingSource, Scratch, Source
from umim.errors import ArtifactError

FULL = EncodingSpec()


class BadUpdateError(Exception):
    """An update is not what it should be: it is left out, and the merge starts again without it."""

    def __init__(self, site: str, reason: ExclusionReason, message: str) -> None:
        super().__init__(message)
        self.site = site
        self.reason: ExclusionReason = reason


@dataclass(frozen=True)
class Update:
    """One site's update, wherever its bytes are."""

    site: str
    """The site as namespace.name."""
    samples: int
    """Number of training images, at least 1."""
    source: Source
    """The tensors file."""
    digest: str | None = None
    """sha256 that the file must have, checked in every pass. None: it has been checked."""
    encoding: EncodingSpec = FULL
    """How the file holds the values."""


class UpdateReader:
    """Reads an update's values during one pass."""

    def __init__(self, update: Update, parent: Mapping[str, TensorInfo], before: Reader) -> None:
        """``before`` reads the parent's values. Raises BadUpdateError when the file does not hold what it must."""
        self.update = update
        """The update that is read."""
        self._hashing = None if update.digest is None else HashingSource(update.source)
        source, encoding = self._hashing or update.source, update.encoding
        try:
            layout = read_layout(source, "the update")
            expected = encoded_infos(parent, encoding.format, encoding.kept)
            check_tensors(layout.infos, expected, "the update", expectation(encoding))
            _check_order(layout)
            self._reader: Reader = (
                TensorValues(source, layout)
                if encoding.format == "full"
                else _Changed(Decoder(source, layout, parent, encoding.format), before)
            )
        except ArtifactError as error:
            raise self._blamed(error) from error

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        """See ``Reader``. Raises BadUpdateError."""
        try:
            return self._reader.values(piece, buffer)
        except ArtifactError as error:
            raise self._blamed(error) from error

    def check_finite(self, name: str, values: Array) -> None:
        """Raise BadUpdateError unless these values of a tensor, read before, are finite."""
        try:
            check_finite(self.update, name, values)
        except BadUpdateError:
            self.verify()  # other bytes than those that were committed are the better reason
            raise

    def verify(self) -> None:
        """Read what is left and check the digest. Raises BadUpdateError."""
        if self._hashing is None:
            return
        try:
            found = self._hashing.finish()
        except ArtifactError as error:
            raise BadUpdateError(self.update.site, "DigestMismatch", str(error)) from error
        if found != self.update.digest:
            message = f"the tensors have sha256 {found}, file.digest is {self.update.digest}"
            raise BadUpdateError(self.update.site, "DigestMismatch", message)

    def _blamed(self, error: ArtifactError) -> BadUpdateError:
        """Return what an error says of the update. Raises BadUpdateError where there is a better reason."""
        if isinstance(error, NotFiniteError):
            return BadUpdateError(self.update.site, "NotFinite", str(error))
        self.verify()  # other bytes than those that were committed are the better reason
        return BadUpdateError(self.update.site, "TensorsMismatch", str(error))


class _Changed:
    """The reader of a file that holds changes of the parent."""

    def __init__(self, decoder: Decoder, before: Reader) -> None:
        self._decoder = decoder
        self._before = before

    def values(self, piece: Slice, buffer: Scratch) -> Array:
        """See ``Reader``."""
        before = self._before.values(piece, bytearray(8 * (piece.stop - piece.start)))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for, and named
            return before + self._decoder.changes(piece.slot.name, piece.start, piece.stop, buffer)


def expectation(encoding: EncodingSpec) -> str:
    """Return whose tensors an update in an encoding is compared with, for messages."""
    return "the parent's is" if encoding.format == "full" else f"encoding {encoding.format} of the parent's is"


def check_finite(update: Update, name: str, values: Array) -> None:
    """Raise BadUpdateError when one of the values is infinite or not a number."""
    if not bool(np.isfinite(values).all()):
        raise BadUpdateError(update.site, "NotFinite", f"tensor {name} holds values that are not finite")


def check_squares(update: Update, name: str, change: Matrix) -> None:
    """Raise BadUpdateError when the square of a change would leave the range of float64: a float64 model's may."""
    largest = float(np.abs(change).max(initial=0))
    if largest >= 2.0**LARGEST_EXPONENT:
        message = f"tensor {name} changes by {largest:g}, allowed is less than 2^{LARGEST_EXPONENT}"
        raise BadUpdateError(update.site, "NotFinite", message)


def _check_order(layout: Layout) -> None:
    """Raise ArtifactError unless the tensors lie as safetensors writes them: that is the order they are read in."""
    expected = [slot.name for slot in plan_layout(layout.infos, None)[0].slots]
    for slot, name in zip(layout.slots, expected, strict=True):
        if slot.name != name and slot.start != slot.stop:
            raise ArtifactError(f"the update: tensor {slot.name} lies where safetensors writes {name}")
