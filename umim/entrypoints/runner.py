"""Runs the main function of a Job: one sentence and an exit code for every way to end."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from umim.errors import DataError, UmimError
from umim.telemetry import setup_logging

TERMINATED = 128 + signal.SIGTERM
MAX_MESSAGE_BYTES = 2048
"""Kubernetes keeps at most 4096 bytes of a termination message."""

_log = logging.getLogger(__name__)


def run_job(main: Callable[[Mapping[str, str]], None], service: str, env: Mapping[str, str], log: Path) -> int:
    """Run ``main(env)`` and return the exit code of the process.

    An error's message goes to the log and, as far as it may leave the hospital, to the file ``log``, from where
    Kubernetes copies it into the Pod's status. Exit codes are those of ``umim.errors``, 70 for an error that nobody
    foresaw, 143 after SIGTERM.
    """
    setup_logging(service, sys.stderr)
    # The main process of a container ignores SIGTERM unless it has a handler.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main(env)
    except UmimError as error:
        _log.error("%s", error)
        _report(log, public_message(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last line: an unforeseen error must still reach the status
        _log.exception("unforeseen error")
        _report(log, public_message(error))
        return UmimError.exit_code
    return 0


def public_message(error: Exception) -> str:
    """Return what of an error may be read outside the Pod's namespace: it ends up in the round's status.

    A file's name or a value in the data may name a patient. So messages about data stay in the Pod's log, but for what
    ``DataError`` marks as public.
    """
    if isinstance(error, DataError) or not isinstance(error, UmimError):
        kind = error.public if isinstance(error, DataError) else "the Job met a defect"
        return f"{type(error).__name__}: {kind}; the log of its Pod, in its own namespace, says what and where."
    return str(error)


def _terminate(*_: object) -> None:
    raise SystemExit(TERMINATED)


def _report(log: Path, message: str) -> None:
    try:
        log.write_bytes(message.encode()[:MAX_MESSAGE_BYTES])
    except OSError as error:
        # Outside a container there is no such file; the message is in the log already.
        _log.debug("no termination message: %s", error)
