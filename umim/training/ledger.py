"""The hospital's privacy ledger: what every private training may have spent, written before its first step.

An append-only file of JSON lines in the hospital's work volume. It holds mechanisms, not sums of epsilon: sums of
epsilon overstate what a composition spends, and another delta needs the mechanisms again. A line is on disk before
the training starts, so a crash hides nothing. A training that goes on from its checkpoint spends nothing new: what
leaves is one outcome of the steps that are in the ledger already, and what was computed behind the checkpoint was
seen by nobody. One that starts anew is entered again, since nobody can tell what became of the one before.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field, ValidationError

from umim.api.base import ApiModel, Digest, FiniteFloat, Timestamp
from umim.api.jobs import SiteJobConfig
from umim.errors import DataError, PrivacyBudgetError, StoreError
from umim.settings import first_problem
from umim.training.accountant import Mechanism, epsilon

LOG = logging.getLogger(__name__)
FOLDER = "privacy"
LEDGER_NAME = "ledger.jsonl"


class LedgerEntry(ApiModel):
    """One training: a line of the ledger."""

    time: Timestamp
    """When it was about to start."""
    round: str
    """namespace/name of the round."""
    round_uid: str
    """UID of the round."""
    attempt: Annotated[int, Field(ge=1)]
    """Attempt that started it."""
    training: Digest
    """sha256 over everything that the training depends on: that of its checkpoints."""
    noise_multiplier: Annotated[FiniteFloat, Field(gt=0)]
    """As in ``Mechanism``."""
    max_grad_norm: Annotated[FiniteFloat, Field(gt=0)]
    """L2 norm to which the gradient of each image is clipped."""
    sample_rate: Annotated[FiniteFloat, Field(gt=0, le=1)]
    """As in ``Mechanism``."""
    steps: Annotated[int, Field(ge=1)]
    """As in ``Mechanism``, over all epochs."""

    @property
    def mechanism(self) -> Mechanism:
        """What is composed."""
        return Mechanism(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class Budget:
    """How much all entries may spend together."""

    epsilon: float | None
    """Most epsilon. None: no limit."""
    delta: float
    """Its delta."""


class PrivacyLedger:
    """The ledger of one hospital in one folder. Any number of Jobs may use it at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LEDGER_NAME

    @classmethod
    def of(cls, config: SiteJobConfig) -> PrivacyLedger:
        """Return the ledger of a site's hospital, the same for every round of every federation."""
        return cls(Path(config.work_path) / FOLDER / config.site)

    def enter(self, entry: LedgerEntry, budget: Budget, resumed: bool) -> float:
        """Enter a training that is about to start and return the epsilon of all entries together.

        ``resumed`` says that it goes on from a checkpoint: then nothing is entered if the training is here already.
        Check and entry are one step for all Jobs. Raises PrivacyBudgetError, and enters nothing, when the budget would
        be exceeded; DataError when the ledger cannot be read.
        """
        with self._locked() as file:
            entries = self._read(file)
            if resumed and any(known.training == entry.training for known in entries):
                LOG.info("the privacy ledger holds this training already: going on spends nothing")
                return epsilon([known.mechanism for known in entries], budget.delta)
            spent = self._checked(entries, entry, budget)
            file.write(entry.model_dump_json(by_alias=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return spent

    def entries(self) -> Sequence[LedgerEntry]:
        """Return all entries, oldest first. Raises DataError when the ledger cannot be read."""
        with self._locked() as file:
            return self._read(file)

    def _checked(self, entries: Sequence[LedgerEntry], entry: LedgerEntry, budget: Budget) -> float:
        before = [known.mechanism for known in entries]
        together = epsilon([*before, entry.mechanism], budget.delta)
        if budget.epsilon is not None and together > budget.epsilon:
            spent, needed = epsilon(before, budget.delta), epsilon([entry.mechanism], budget.delta)
            raise PrivacyBudgetError(
                "the training is not started: spec.privacy.differentialPrivacy.epsilonBudget of the Hospital is "
                f"{budget.epsilon:g} at delta {budget.delta:g}, {spent:.3f} is spent, this training needs {needed:.3f} "
                f"alone, and together they spend {together:.3f}. Allowed are more noise (a larger noiseMultiplier or "
                "a smaller targetEpsilon), fewer epochs or smaller batches"
            )
        return together

    def _read(self, file: BinaryIO) -> list[LedgerEntry]:
        """Return the entries, and cut off a last line without its end: its Job died before it trained."""
        file.seek(0)
        whole, end, torn = file.read().rpartition(b"\n")
        if torn:
            LOG.warning("the last line of %s is not whole: its Job died before it trained; it is removed", self._path)
            file.truncate(len(whole) + len(end))
        return [self._parsed(number, line) for number, line in enumerate(whole.split(b"\n"), start=1) if whole]

    def _parsed(self, number: int, line: bytes) -> LedgerEntry:
        try:
            return LedgerEntry.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                f"{self._path}, line {number}: {first_problem(error)}. No private training starts until the ledger is "
                "put back from a copy",
                public="the privacy ledger in the work volume cannot be read",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file for reading and appending, with no other Job at it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            sync_folder(self._folder)  # the file's name has to survive as well as its lines
            yield file


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock on a file, so that no second Job trains from the same checkpoints: two outcomes spend twice.

    The lock ends with the process, however it ends. Raises StoreError when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError("another Job of this round still trains at this site; trying again can help") from error
        yield


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
