"""Exceptions with exit codes: how a process says whether trying again can help.

Exit codes follow BSD sysexits(3). The operator reads the exit code of a Job's container: a code in
``PERMANENT_EXIT_CODES`` ends the site at once, any other failure is tried again.
"""

from __future__ import annotations

from typing import ClassVar


class UmimError(Exception):
    """Base of all errors of this project. The message is one sentence for the person who can act on it."""

    exit_code: ClassVar[int] = 70  # EX_SOFTWARE


class DataError(UmimError):
    """The hospital's (or server's) data cannot be used: names the file or column, the value, what is allowed.

    ``public`` is what may leave the hospital: a sentence that names fields of its Hospital resource only. The message
    itself stays in the Pod's log, since the name of a file may name a patient.
    """

    exit_code = 65  # EX_DATAERR

    def __init__(self, message: str, public: str = "the data cannot be used") -> None:
        super().__init__(message)
        self.public = public


class ConfigError(UmimError):
    """A specification or setting is invalid: names the field, the value and what is allowed."""

    exit_code = 78  # EX_CONFIG


class PolicyError(ConfigError):
    """The hospital's own policy forbids what the operator asks for: names the field, the value and what is allowed."""

    exit_code = 79  # free in sysexits(3); the operator tells it apart


class WindowClosedError(UmimError):
    """The hospital's time window has closed. Going on later can help."""

    exit_code = 75  # EX_TEMPFAIL


class ArtifactError(UmimError):
    """An artifact is damaged or not what its manifest says (digest, shape, dtype, parent)."""

    exit_code = 76  # EX_PROTOCOL


class StoreError(UmimError):
    """The object store does not answer or refuses for a passing reason. Trying again can help."""

    exit_code = 75  # EX_TEMPFAIL


class UntrustedStoreError(StoreError):
    """The store's certificate is refused. Trying again helps once the certificate or the CA is another."""


class NotFoundError(StoreError):
    """An object that must exist does not."""

    exit_code = 66  # EX_NOINPUT


class AccessDeniedError(StoreError):
    """The credentials do not allow this access, or have expired."""

    exit_code = 77  # EX_NOPERM


class TrainingError(UmimError):
    """Training cannot go on, for example because the loss is no longer finite."""

    exit_code = 70


class PrivacyBudgetError(UmimError):
    """The training would spend more epsilon than the hospital's budget has left: names spent, needed and budget."""

    exit_code = 73  # EX_CANTCREAT: the next free one, of no special meaning


PERMANENT_EXIT_CODES: frozenset[int] = frozenset(
    {DataError.exit_code, ConfigError.exit_code, PolicyError.exit_code, PrivacyBudgetError.exit_code}
)
"""Exit codes after which the same Job would fail the same way again."""
